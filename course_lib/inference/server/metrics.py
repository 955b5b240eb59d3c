"""What /metrics says, in Prometheus' text format.

Each server has its own registry, because tests start several servers in one process.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import Scope

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
ABOUT = {
    "running": "Requests that are being answered",
    "waiting": "Requests that wait for a place in the batch",
    "pages_used": "Pages of the cache in use",
    "pages_kept": "Pages that wait for another request that begins alike",
    "pages_total": "Pages of the cache",
    "requests_total": "Requests taken",
    "tokens_total": "Tokens generated",
    "prompt_tokens_total": "Tokens of prompts",
    "prefix_tokens_shared_total": "Tokens of prompts that were in the cache already",
    "cancelled_total": "Requests whose client went away",
    "errors_total": "Requests on which the model failed",
    "set_back_total": "How often a request gave its pages to an earlier one",
}


class Metrics:
    """Counts the calls and their times, and reports the engine's own numbers beside them.

    Args:
        statistics: the engine's method of that name.
        paths: the paths that are counted one by one. All others are counted together, as "other", so that a stranger
            cannot make the list grow.
    """

    def __init__(self, statistics: Callable[[], dict[str, float]], paths: tuple[str, ...]):
        self.paths, self.registry = paths, CollectorRegistry()
        self.calls = Counter("course_http_requests", "Calls", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "course_http_seconds", "Seconds of a call", ["path"], registry=self.registry, buckets=SECONDS
        )
        self.first_token = Histogram(
            "course_first_token_seconds", "Seconds to the first token", registry=self.registry, buckets=SECONDS
        )
        self.registry.register(_Engine(statistics))

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Note a finished call.

        Args:
            scope: the call's ASGI scope.
            status: the status of the answer; 499 if the client went away before it.
            seconds: the time from the call's arrival to its end.
        """
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.calls.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """The text that a Prometheus server reads."""
        return generate_latest(self.registry)


class _Engine:
    """The engine's statistics, read each time that Prometheus asks."""

    def __init__(self, statistics: Callable[[], dict[str, float]]):
        self.statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield a counter or a gauge for each number."""
        for name, value in self.statistics().items():
            about = ABOUT.get(name, name.replace("_", " "))
            if name.endswith("_total") and name != "pages_total":
                yield CounterMetricFamily(f"course_{name.removesuffix('_total')}", about, value=value)
            else:
                yield GaugeMetricFamily(f"course_{name}", about, value=value)
