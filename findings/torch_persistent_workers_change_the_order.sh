#!/usr/bin/env bash
# With persistent_workers=True a DataLoader shuffles otherwise from the second epoch on.
#
# Package: torch 2.13.0.
# Guess: workers, and whether they are kept, are a matter of speed: with a generator of one seed, the rows come in the
#   same order with none, with two, and with two that persist.
# Behaviour: the first epoch is the same for all three. From the second on the order with persistent workers is
#   another one: a new iterator draws a seed for its workers from the same generator as the shuffling, and an iterator
#   that is kept draws none. A run that was sped up by the option is another run.
# Here: the course's loops draw their batches from a seed of their own, without a DataLoader.
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
from torch.utils.data import DataLoader


def epochs(**settings):
    """The rows of three epochs, shuffled by a generator of one seed."""
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(range(10), batch_size=2, shuffle=True, generator=generator, **settings)
    return [torch.cat(list(loader)).tolist() for _ in range(3)]


if __name__ == "__main__":
    print("torch", torch.__version__)
    found = {
        "no workers": epochs(),
        "two workers": epochs(num_workers=2),
        "two that persist": epochs(num_workers=2, persistent_workers=True),
    }
    for name, orders in found.items():
        print(f"{name:17}", *orders)
    plain, workers, persistent = found.values()
    assert plain == workers
    assert plain[0] == persistent[0]
    assert plain[1] != persistent[1] and plain[2] != persistent[2], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
