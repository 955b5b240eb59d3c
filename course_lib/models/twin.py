"""A second model that costs no second copy of the weights."""

import copy

from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy of `model`'s modules over the very same weight tensors.

    Adapters that are put on one are not on the other. Use it for frozen weights only: an optimiser's step on a shared
    tensor changes both models.
    """
    # deepcopy looks up each object in `memo` by its id, and takes what it finds there instead of copying.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)
