#!/usr/bin/env bash
# A tensor that goes through a pipe of the standard library is not copied: both processes have the same memory.
#
# Package: torch 2.13.0, numpy 2.4.6.
# Guess: multiprocessing.Pipe pickles what is sent, so the receiver has a copy, of a tensor as of a NumPy array.
#   Sharing is what torch.multiprocessing is for.
# Behaviour: `import torch` registers its reducers with the standard library's pickler. send() moves the tensor's
#   storage to shared memory and sends a handle. What the receiver writes appears in the sender's tensor, and what the
#   sender writes after send() appears at the receiver, without torch.multiprocessing being named anywhere.
# Here: processes of the course send bytes that pickle.dumps made, which are a copy.
set -euo pipefail
packages=(torch==2.13.0 numpy==2.4.6)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import multiprocessing
from importlib.metadata import version

import numpy as np
import torch


def add_a_hundred(connection):
    values = connection.recv()
    values += 100
    connection.send("done")
    connection.recv()


def sent_values(values):
    """What the sender has after the receiver has changed what it received."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=add_a_hundred, args=(there,))
    process.start()
    here.send(values)
    assert here.recv() == "done"
    found = values.tolist()
    here.send("leave")
    process.join()
    return found


if __name__ == "__main__":
    print(*(f"{name} {version(name)}" for name in ("torch", "numpy")))
    array, tensor = sent_values(np.zeros(3)), sent_values(torch.zeros(3))
    print("the sender's zeros, after the receiver added 100 to what it got: array", array, "tensor", tensor)
    assert array == [0, 0, 0]
    assert tensor == [100, 100, 100], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
