#!/usr/bin/env bash
# A Prometheus timer on an async function measures the making of the coroutine, not its run.
#
# Package: prometheus-client 0.26.0.
# Guess: @histogram.time() on an async endpoint measures until it returns, as on a plain function, or refuses it.
# Behaviour: the function runs inside the timer only until it has made its coroutine. A call that sleeps for 0.2 s is
#   noted with some microseconds. Likewise @gauge.track_inprogress() never counts the call that is in progress, and
#   @counter.count_exceptions() counts no exception. As context managers, inside the function, all three are right.
# Here: the course's server takes the times itself, in the middleware, when a call has ended.
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
import asyncio
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


def instruments():
    registry = CollectorRegistry()
    about = {"documentation": "what is measured", "registry": registry}
    return registry, Histogram("seconds", **about), Gauge("running", **about), Counter("errors", **about)


def measure(registry, call, seen):
    """Run a call that sleeps and fails; return the seconds, the gauge during the call, and the errors counted."""
    try:
        asyncio.run(call())
    except ValueError:
        pass
    return registry.get_sample_value("seconds_sum"), seen[0], registry.get_sample_value("errors_total")


async def work(registry, seen):
    seen.append(registry.get_sample_value("running"))
    await asyncio.sleep(0.2)
    raise ValueError


def decorated():
    registry, seconds, running, errors = instruments()
    seen = []

    @seconds.time()
    @running.track_inprogress()
    @errors.count_exceptions()
    async def call():
        await work(registry, seen)

    return measure(registry, call, seen)


def inside():
    registry, seconds, running, errors = instruments()
    seen = []

    async def call():
        with seconds.time(), running.track_inprogress(), errors.count_exceptions():
            await work(registry, seen)

    return measure(registry, call, seen)


print("prometheus-client", version("prometheus-client"))
found = {function.__name__: function() for function in (inside, decorated)}
for name, (seconds, running, errors) in found.items():
    print(f"{name}: {seconds:.6f} s, {running:.0f} in progress, {errors:.0f} errors")
seconds, running, errors = found["inside"]
assert seconds > 0.19 and (running, errors) == (1, 1)
seconds, running, errors = found["decorated"]
assert seconds < 0.1 and (running, errors) == (0, 0), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
