#!/usr/bin/env bash
# torch's Muon in bfloat16 without Nesterov overwrites its momentum with the normalised one.
#
# Package: torch 2.13.0 (torch.optim.Muon).
# Guess: the momentum is the moving average of the gradients in every dtype and with either form of momentum; bfloat16
#   rounds it.
# Behaviour: the Newton-Schulz iteration works on `update.bfloat16()` and divides it by its norm in place. Without
#   Nesterov the update is the buffer itself, and for bfloat16 parameters `.bfloat16()` copies nothing: at each step the
#   buffer is scaled to the norm 1. Gradients of a usual size are small beside that, so the buffer hardly turns any
#   more. float32 parameters and nesterov=True are right.
# Here: who tries Muon beside AdamW in bfloat16 leaves nesterov=True, or keeps float32 parameters.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import torch

print("torch", torch.__version__)


def run(dtype, nesterov, steps=60):
    """Momentum after some steps with one gradient and then some with the opposite one, against the right one."""
    torch.manual_seed(0)
    gradient = 1e-3 * torch.randn(32, 32)
    weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=dtype))
    optimizer = torch.optim.Muon([weight], lr=1e-3, momentum=0.95, nesterov=nesterov, weight_decay=0.0)
    average = torch.zeros(32, 32)
    for step in range(2 * steps):
        now = gradient if step < steps else -gradient
        average.lerp_(now, 0.05)
        weight.grad = now.to(dtype)
        before = weight.detach().clone()
        optimizer.step()
    buffer = optimizer.state[weight]["momentum_buffer"].float()
    step = (before - weight.detach()).float()
    agreement = torch.nn.functional.cosine_similarity(step.flatten(), -gradient.flatten(), dim=0).item()
    return (buffer.norm() / average.norm()).item(), agreement


found = {}
for dtype in (torch.float32, torch.bfloat16):
    for nesterov in (True, False):
        found[dtype, nesterov] = ratio, agreement = run(dtype, nesterov)
        print(f"{dtype}, nesterov={nesterov}: norm of the momentum {ratio:.2f} times the right one,", end=" ")
        print(f"cosine of the last step and the gradient of the last sixty steps {agreement:.2f}")
for setting, (ratio, agreement) in found.items():
    if setting != (torch.bfloat16, False):
        assert 0.9 < ratio < 1.1 and agreement > 0.5
ratio, agreement = found[torch.bfloat16, False]
assert ratio > 5, "the behaviour has changed"
assert agreement < 0, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
