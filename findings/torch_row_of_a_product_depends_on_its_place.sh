#!/usr/bin/env bash
# A row of a float32 product has other bits at another place in the batch, for some widths of the second matrix.
#
# Library: torch 2.13.0 (pip's x86-64 build for CPUs, whose products are MKL's), one thread.
# Guess: where the shapes, the dtype and the number of threads stay, x[i] @ A depends on x[i] and A alone. Batch-invariant
#   serving therefore needs nothing but products of one fixed number of rows.
# Behaviour: with 8 rows of 64 numbers and 5 to 7, or 9 to 11 columns, moving a row to another place in the batch changes its
#   last bits. With 8, 16, 24, 32, 48 or 64 columns nothing changes.
# Here: LoRA's products are as wide as the rank. A server that pads its batch to a fixed size still gives a request other
#   bits from one place to the next where ranks are 5 to 7, so ours fills ranks up to a multiple of 16.
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

print("torch", torch.__version__, "on", torch.backends.cpu.get_cpu_capability())
torch.set_num_threads(1)


def moved_rows(width: int) -> int:
    """How many of 8 rows have other bits somewhere else in the batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, generator=generator)
    a = torch.randn(64, width, generator=generator)
    stay = x @ a
    moved = set()
    for shift in range(1, 8):
        back = (x.roll(shift, 0).contiguous() @ a).roll(-shift, 0)
        moved |= {row for row in range(8) if not torch.equal(stay[row], back[row])}
    return len(moved)


counts = {width: moved_rows(width) for width in range(1, 65)}
print("columns: rows whose bits depend on their place", {w: n for w, n in counts.items() if n})
assert counts[5] and counts[6] and counts[7], "the behaviour has changed"
assert not any(counts[width] for width in (8, 16, 24, 32, 48, 64)), "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
