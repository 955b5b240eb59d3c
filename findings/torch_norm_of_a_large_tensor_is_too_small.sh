#!/usr/bin/env bash
# On a CPU, the norm of a large float32 tensor is too small: by a third for 300 million ones.
#
# Library: torch 2.13.0, torch.linalg.vector_norm (and with it Tensor.norm, torch._foreach_norm, clip_grad_norm_).
# Guess: a norm is as exact as a sum. torch sums floats in a cascade, so that x.sum() of 300 million ones is exact.
# Behaviour: the norm adds the squares one after another into a few float32 numbers, which stop growing at 2^24 times an
#   addend. 300 million ones: 0.669 of the true norm. 100 million normal random numbers: 0.989 of it. (x * x).sum().sqrt()
#   of the same tensors is right to 1e-7. Nothing is said.
# Here: gradient clipping and the reported gradient norm of models with large embeddings. An embedding of 28
#   million entries (SmolLM2-135M) is off by 0.16 %, Gemma 3's 168 million and Llama 3 8B's 525 million by far more.
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
ones = torch.ones(300_000_000)
true = 300_000_000**0.5
norm = torch.linalg.vector_norm(ones).item() / true
by_sum = (ones.mul_(ones)).sum().sqrt().item() / true
print(f"300 million ones: norm {norm:.4f} of the true one, square root of the sum of squares {by_sum:.7f}")
assert norm < 0.75 and abs(by_sum - 1) < 1e-6, "the behaviour has changed"
del ones
for count in (1_000_000, 28_311_552, 100_000_000):
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(0))
    ratio = torch.linalg.vector_norm(numbers).item() / numbers.double().norm().item()
    print(f"{count:,} normal random numbers: norm {ratio:.5f} of the true one")
assert ratio < 0.995, "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
