#!/usr/bin/env bash
# An optimiser's float32 master weights come back from a checkpoint rounded to bfloat16.
#
# Package: torch 2.13.0.
# Guess: load_state_dict gives an optimiser the tensors that state_dict gave, in their dtypes.
# Behaviour: every tensor of the state but "step" is cast to its parameter's dtype, without a word. A float32 copy of a
#   bfloat16 weight, 1.001, is 1.0 afterwards, and what it is for is lost: small updates add up in it. A run that goes on
#   from such a checkpoint is another run. (The same tensor beside a float32 parameter keeps its value.)
# Here: the course's AdamW with master weights reads its state itself, and a test resumes a run bit for bit.
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


class KeepsMaster(torch.optim.Optimizer):
    """Gradient descent on a float32 copy of each parameter, which is rounded into the parameter."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["master"] = parameter.float()
                state["master"] += group["lr"] * parameter.grad.float()
                parameter.copy_(state["master"])


def master_after_loading(dtype):
    parameter = torch.nn.Parameter(torch.ones(1, dtype=dtype))
    optimizer = KeepsMaster([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    before = saved["state"][0]["master"].clone()
    again = KeepsMaster([parameter])
    again.load_state_dict(saved)
    return before, again.state[parameter]["master"]


print("torch", torch.__version__)
found = {dtype: master_after_loading(dtype) for dtype in (torch.float32, torch.bfloat16)}
for dtype, (before, after) in found.items():
    print(f"{dtype} parameter: master {before.item():.4f} {before.dtype}, loaded {after.item():.4f} {after.dtype}")
before, after = found[torch.float32]
assert torch.equal(before, after)
before, after = found[torch.bfloat16]
assert before.dtype == torch.float32
assert after.dtype == torch.bfloat16 and after.item() == 1.0, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
