"""Stops a preference run whose loss falls while the model gets worse."""

import math
from collections import deque

from course_lib.errors import CourseError


class DivergenceGuard:
    """Watches a preference run, and stops it with an explanation.

    The loss sees only the difference of two rewards. It also falls when both responses become unlikely and the rejected
    one does so faster: the margin grows, and the model forgets how to say either (arXiv:2404.14367, arXiv:2402.13228).
    The guard averages the chosen response's log-ratio per token over a window of steps. Training stops if that mean is
    below `collapse` while the margin has grown since the window before.

    Args:
        collapse: the lowest mean log-ratio that is allowed, in nats per token, below 0. At -1 each token of a chosen
            response has become e times less likely.
        window: how many steps are averaged, so that one bad batch is not a collapse.

    Raises:
        CourseError: `collapse` is not below 0, or `window` is below 1.

    Example:
        >>> guard = DivergenceGuard(collapse=-1.0, window=1)
        >>> guard.watch(loss=0.6, margin=0.2, chosen_ratio=-0.1)
        >>> guard.watch(loss=0.5, margin=0.9, chosen_ratio=-2.0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        course_lib.errors.CourseError: The run diverges: ...
    """

    def __init__(self, collapse: float = -1.0, window: int = 10):
        if not collapse < 0 or window < 1:
            raise CourseError(f"collapse={collapse}, window={window}: collapse is below 0, and window at least 1.")
        self.collapse, self.window = collapse, window
        self.ratios: deque[float] = deque(maxlen=window)  # the chosen response's, for each token
        self.margins: deque[float] = deque(maxlen=2 * window)

    def watch(self, loss: float, margin: float, chosen_ratio: float, reference_is_finite: bool = True) -> None:
        """Look at one step, before its weights change.

        Args:
            loss: the step's mean loss.
            margin: the mean difference of the rewards.
            chosen_ratio: the mean of (log p - log p_ref) / tokens over the chosen responses, in nats per token.
            reference_is_finite: whether all of the reference's log-probabilities are numbers.

        Raises:
            CourseError: the run has diverged.
        """
        if not math.isfinite(loss):
            raise CourseError(_not_finite(loss, reference_is_finite))
        self.ratios.append(chosen_ratio)
        self.margins.append(margin)
        if len(self.margins) < 2 * self.window:
            return
        margins = list(self.margins)
        earlier, now = sum(margins[: self.window]) / self.window, sum(margins[self.window :]) / self.window
        ratio = sum(self.ratios) / self.window
        if ratio < self.collapse and now > earlier:
            raise CourseError(
                f"The run diverges: over the last {self.window} steps the margin rose from {earlier:.2f} to {now:.2f}, "
                f"and yet each token of the chosen responses is {math.exp(min(-ratio, 50)):.3g} times less likely than "
                "under the reference. The loss falls because the rejected responses become unlikely faster. Lower the "
                "learning rate, raise beta, or give fewer steps. The weights are those before this step."
            )


def _not_finite(loss: float, reference_is_finite: bool) -> str:
    """The message of a loss that is infinite or not a number."""
    whose = "the policy's log-probabilities are" if reference_is_finite else "already the reference's values are"
    cure = (
        "Lower the learning rate, or compute in float32 or bfloat16 rather than float16."
        if reference_is_finite
        else "The base itself overflows: load it in float32 or bfloat16, and look at the pairs of this step."
    )
    return f"The preference loss is {loss}: {whose} not finite. {cure} The weights are those before this step."
