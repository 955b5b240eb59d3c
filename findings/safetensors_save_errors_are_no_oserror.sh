#!/usr/bin/env bash
# What the operating system refuses is no OSError when safetensors writes, and is one when it reads.
#
# Library: safetensors 0.8.0, safetensors.numpy.save_file (torch's calls the same function), beside numpy 2.4.6.
# Guess: save_file raises OSError with its number, as open, numpy.save and its own load_file do: `except OSError` around
#   a checkpoint catches a full disk, a missing folder or a folder that may not be written.
# Behaviour: it raises SafetensorError, a subclass of Exception alone. The number stands in the text, "(os error 2)";
#   there is no errno. load_file of the same path raises FileNotFoundError. Shown with a missing folder; a full disk
#   comes as "(os error 28)".
# Here: trainers that make room and try again, or end with a sentence, when a checkpoint does not fit on the disk.
set -euo pipefail
packages=(safetensors==0.8.0 numpy==2.4.6)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

path = f"{sys.argv[1]}/a_folder_that_is_not_there/model.safetensors"
print("safetensors", safetensors.__version__)
raised = {}
for name, function in {
    "numpy.save": lambda: np.save(path, np.zeros(2)),
    "load_file": lambda: load_file(path),
    "save_file": lambda: save_file({"a": np.zeros(2)}, path),
}.items():
    try:
        function()
    except Exception as error:
        raised[name] = error
        print(f"{name}: {type(error).__name__}, an OSError: {isinstance(error, OSError)}, errno {getattr(error, 'errno', None)}")
assert raised["numpy.save"].errno == 2 and isinstance(raised["load_file"], FileNotFoundError)
assert not isinstance(raised["save_file"], OSError) and not hasattr(raised["save_file"], "errno"), "the behaviour has changed"
assert "os error 2" in str(raised["save_file"])
PYTHON
if "$folder/env/bin/python" "$folder/check.py" "$folder"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
