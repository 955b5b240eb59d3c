#!/usr/bin/env bash
# Clipping finite float16 gradients can set all of them to zero, without a word.
#
# Library: torch 2.13.0, torch.nn.utils.clip_grad_norm_.
# Guess: gradients that are all finite are scaled down to the norm that was asked for; where something overflows,
#   there is an error or a warning.
# Behaviour: the norm is computed in the gradients' own dtype. In float16 it overflows to infinity above 65,504, which a
#   million entries of 66 reach. The factor max_norm / norm is then 0, every gradient becomes 0, and nothing is said
#   (error_if_nonfinite is False by default). The optimiser step that follows moves nothing but the moments. In float32
#   the same gradients come out with norm 1.
# Here: runs with float16 weights, or gradients that were not unscaled before clipping. A loss scale of 65,536
#   makes large norms ordinary.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import torch

print("torch", torch.__version__)
for dtype in (torch.float32, torch.float16):
    parameter = torch.nn.Parameter(torch.zeros(1_000_000, dtype=dtype))
    parameter.grad = torch.full_like(parameter, 100.0)
    assert parameter.grad.isfinite().all()
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    after = parameter.grad.float().norm().item()
    print(f"{dtype}: norm reported {norm.item()}, norm after clipping to 1: {after:.4f}")
    if dtype is torch.float32:
        assert abs(norm.item() / 100_000 - 1) < 0.01 and abs(after - 1) < 0.01
    else:
        assert norm.isinf() and after == 0.0, "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
