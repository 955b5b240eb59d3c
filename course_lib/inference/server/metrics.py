"""What /metrics says, in Prometheus' text format. Each server has a registry of its own: tests start several."""

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
    """Counts of calls, their times, and the engine's own numbers.

    Args:
        statistics: the engine's.
        paths: the paths that are told apart; what strangers ask for is "other".
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
            scope: of the call.
            status: of the answer; 499 where the client went away before it.
            seconds: from its arrival to its end.
        """
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.calls.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """The text that a Prometheus server reads."""
        return generate_latest(self.registry)


class _Engine:
    """The engine's statistics, read when they are asked for."""

    def __init__(self, statistics: Callable[[], dict[str, float]]):
        self.statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """One family for each number."""
        for name, value in self.statistics().items():
            about = ABOUT.get(name, name.replace("_", " "))
            if name.endswith("_total") and name != "pages_total":
                yield CounterMetricFamily(f"course_{name.removesuffix('_total')}", about, value=value)
            else:
                yield GaugeMetricFamily(f"course_{name}", about, value=value)
