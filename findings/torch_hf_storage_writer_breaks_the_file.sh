#!/usr/bin/env bash
# A number beside the tensors makes DCP's writer for Hugging Face write a file that safetensors cannot read.
#
# Package: torch 2.13.0, with safetensors 0.8.0 (torch.distributed.checkpoint.save with a HuggingFaceStorageWriter).
# Guess: a state with a step counter is saved as by the ordinary writer; or the counter, for which the format has no
#   place, is refused or left out.
# Behaviour: the pickled number is written in front of the safetensors header. save() reports nothing, and the file can
#   be read by nobody: safe_open and HuggingFaceStorageReader both raise. Without the number the same tensors are fine.
#   The ordinary writer keeps both.
# Here: such a checkpoint is found out when it is needed.
set -euo pipefail
packages=(torch==2.13.0 safetensors==0.8.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

print(*(f"{name} {version(name)}" for name in ("torch", "safetensors")))


def saved(state):
    """Save, then read by safetensors and by DCP's own reader: what comes back, or the errors."""
    folder = Path(tempfile.mkdtemp(dir="."))
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(folder)))
    (file,) = folder.glob("*.safetensors")
    back = {"weight": torch.zeros(2, 3)}
    results = []
    for read in (
        lambda: load_file(file)["weight"].sum().item(),
        lambda: (dcp.load(back, storage_reader=HuggingFaceStorageReader(str(folder))), back["weight"].sum().item())[1],
    ):
        try:
            results.append(read())
        except (SafetensorError, dcp.CheckpointException) as error:
            results.append(f"{type(error).__name__}: {str(error).splitlines()[-1][:70]}")
    return results


plain, counted = saved({"weight": torch.ones(2, 3)}), saved({"weight": torch.ones(2, 3), "step": 5})
print("tensors only:   ", plain)
print("with a counter: ", counted)
folder = tempfile.mkdtemp(dir=".")
dcp.save({"weight": torch.ones(2, 3), "step": 5}, checkpoint_id=folder)
ordinary = {"weight": torch.zeros(2, 3), "step": 0}
dcp.load(ordinary, checkpoint_id=folder)
print("ordinary writer:", ordinary["weight"].sum().item(), ordinary["step"])
assert plain == [6.0, 6.0]
assert ordinary["step"] == 5
assert all(isinstance(result, str) for result in counted), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
