"""Evaluation mode for a while: dropout off inside a block, and every layer's own mode put back after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Inside `with evaluating(model):` the model is in evaluation mode, without dropout.

    Each layer gets its own mode back, also after an error. With dropout, a measurement would draw random numbers: two
    of them would differ, and the draws of a training run around them would move.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(model):
        ...     model.training
        False
        >>> [layer.training for layer in model]
        [True, False]
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in before:
            module.training = mode  # not .train(), which would also switch the layers inside it
