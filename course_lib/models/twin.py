"""A second model that costs no second copy of the weights."""

import copy

from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy of `model`'s modules over the very same weight tensors.

    Adapters put on one are not on the other. Only for frozen weights: a step on a shared tensor moves both models.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)
