#!/usr/bin/env bash
# A single NaN spoils the sum of a Prometheus histogram for good, and is counted nowhere.
#
# Package: prometheus-client 0.26.0.
# Guess: observe(nan) is refused, or counted in the last bucket (+Inf), so that the count tells that something came.
# Behaviour: neither. NaN is not less than or equal to any bound, so no bucket takes it, +Inf neither, and the count,
#   which is made from the buckets, stays where it was. The sum is NaN from then on, and so is every mean and every
#   rate computed from it, until the process is started again. A Summary does count the NaN.
# Here: the course's server observes times only, which are finite; a loss needs math.isfinite before it is observed.
set -euo pipefail
packages=(prometheus-client==0.26.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import math
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Histogram, Summary


def after_a_nan(kind, **settings):
    """The count and the sum after 0.5, NaN and 0.25, and the last bucket."""
    registry = CollectorRegistry()
    metric = kind("loss", "what is measured", registry=registry, **settings)
    for value in (0.5, math.nan, 0.25):
        metric.observe(value)
    last = registry.get_sample_value("loss_bucket", {"le": "+Inf"})
    return registry.get_sample_value("loss_count"), registry.get_sample_value("loss_sum"), last


print("prometheus-client", version("prometheus-client"))
count, total, last = after_a_nan(Histogram, buckets=(1, 2))
print(f"histogram, three values of which one is NaN: count {count:.0f}, sum {total}, bucket +Inf {last:.0f}")
summary_count, summary_total, _ = after_a_nan(Summary)
print(f"summary, likewise: count {summary_count:.0f}, sum {summary_total}")
assert summary_count == 3 and math.isnan(summary_total)
assert (count, last) == (2, 2) and math.isnan(total), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
