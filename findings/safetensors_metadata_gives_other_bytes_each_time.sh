#!/usr/bin/env bash
# The same tensors with the same metadata are another file each time that they are saved.
#
# Package: safetensors 0.8.0, numpy 2.4.6.
# Guess: the format has no time stamp and nothing at random, and save_file sorts the tensors: the same input gives the
#   same bytes, so a checksum tells whether a model changed.
# Behaviour: with two or more entries, the metadata stand in the header in the order of a hash table that is seeded at
#   random, so eight entries give another order, and another checksum, in practice at every call. With at most one
#   entry ("format", as transformers writes it) the bytes are the same. What is read back is equal either way.
# Here: an adapter of a 4-bit base has two entries, "format" and how the base was quantised, so two equal runs may
#   give two checksums. Who compares runs compares tensors.
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
import hashlib
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

TENSORS = {"weight": np.ones(3, np.float32), "bias": np.zeros(2, np.float32)}


def checksums(entries):
    """The different checksums of the same tensors and metadata, saved 20 times."""
    metadata = {f"key{number}": "value" for number in range(entries)}
    files = [save(TENSORS, metadata=metadata) for _ in range(20)]
    assert all(np.array_equal(load(file)[name], tensor) for file in files for name, tensor in TENSORS.items())
    return {hashlib.sha256(file).hexdigest() for file in files}


print(*(f"{name} {version(name)}" for name in ("safetensors", "numpy")))
found = {entries: len(checksums(entries)) for entries in (0, 1, 8)}
for entries, different in found.items():
    print(f"{entries} entries of metadata: {different} different files of 20")
assert found[0] == found[1] == 1
assert found[8] > 1, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
