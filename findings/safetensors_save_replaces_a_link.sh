#!/usr/bin/env bash
# safetensors' save_file does not write through a symbolic link: the link is replaced by a file.
#
# Library: safetensors 0.8.0, safetensors.numpy.save_file (torch's calls the same function), beside numpy 2.4.6.
# Guess: a link to a file on another disk stays a link, and the file that it points to gets the new tensors, as with
#   open(path, "wb"), numpy.save and torch.save.
# Behaviour: the tensors go to a new file that is renamed to the given path. The link is gone, the new file lies on the
#   link's own disk, and the file that it pointed to keeps the old tensors: both load, and nothing warns.
# Here: clusters, where model.safetensors in the home folder is a link to a disk with more room, or a fixed name is a
#   link to the newest checkpoint.
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
import os
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

os.chdir(sys.argv[1])
os.mkdir("large_disk")
print("safetensors", safetensors.__version__)
old, new = {"a": np.zeros(2)}, {"a": np.ones(2)}

save_file(old, "large_disk/model.safetensors")
os.symlink("large_disk/model.safetensors", "model.safetensors")
save_file(new, "model.safetensors")
is_link = os.path.islink("model.safetensors")
behind = load_file("large_disk/model.safetensors")["a"].tolist()
print("safetensors: still a link:", is_link, "; behind it:", behind)

np.save("large_disk/model.npy", old["a"])
os.symlink("large_disk/model.npy", "model.npy")
np.save("model.npy", new["a"])
print("numpy:       still a link:", os.path.islink("model.npy"), "; behind it:", np.load("large_disk/model.npy").tolist())

assert os.path.islink("model.npy") and np.load("large_disk/model.npy").tolist() == [1, 1]
assert not is_link and behind == [0, 0], "the behaviour has changed"
assert load_file("model.safetensors")["a"].tolist() == [1, 1]
PYTHON
if "$folder/env/bin/python" "$folder/check.py" "$folder"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
