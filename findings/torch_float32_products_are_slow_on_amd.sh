#!/usr/bin/env bash
# On an AMD processor torch multiplies float32 matrices at less than half of the speed that its own other library has.
#
# Package: torch 2.13.0 (nn.Linear, torch.utils.mkldnn; the builds for x86 carry both MKL and oneDNN).
# Guess: F.linear takes the fastest kernel that torch has for the processor, so the layer that torch.utils.mkldnn makes
#   of it, from the days before torch.compile, is no faster.
# Behaviour: in float32, products go to MKL, whatever the processor. On an EPYC with AVX-512 a layer of 576 x 3072 and
#   512 rows takes 18 ms of processor time by MKL and 8 ms by oneDNN, with the same results up to rounding. In bfloat16
#   both calls are oneDNN's. On Intel's processors the two are alike.
# Here: training and evaluating in float32 on AMD, which many laptops, notebooks in the cloud and nodes of clusters have.
# Needs an AMD processor; anywhere else it could not run.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }
grep -q AuthenticAMD /proc/cpuinfo || could_not_run "this is not an AMD processor"
grep -qw avx512f /proc/cpuinfo || could_not_run "this processor has no AVX-512"

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import time

import torch
from torch import nn
from torch.utils import mkldnn

torch.set_num_threads(1)
torch.manual_seed(0)
print("torch", torch.__version__)
layer = nn.Linear(576, 3072).eval()
x = torch.randn(512, 576)


def least(call):
    """The least processor time of many calls, in ms: the machine may be busy."""
    times = []
    for _ in range(60):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


with torch.no_grad():
    expected = layer(x)
    as_is = least(lambda: layer(x))
    other = mkldnn.to_mkldnn(layer)
    by_onednn = least(lambda: other(x))
    difference = (other(x) - expected).abs().max().item()
print(f"nn.Linear {as_is:.1f} ms, the same layer by oneDNN {by_onednn:.1f} ms: {as_is / by_onednn:.1f} times")
print(f"largest difference {difference:.1e}")
assert difference < 1e-4, "the results differ"
assert as_is > 1.5 * by_onednn, "torch takes a kernel of about oneDNN's speed: this has changed"
PYTHON
"$folder/env/bin/python" "$folder/check.py"
