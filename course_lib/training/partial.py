"""Train only the last blocks of a model, on machines whose memory does not suffice for all of them."""

from torch import nn

from course_lib.errors import CourseError


def train_last_blocks(model: nn.Module, count: int) -> nn.Module:
    """Let only the last `count` blocks be trained, in place; everything else is frozen.

    Gradients and AdamW's moments take three times the memory of what is trained, and the backward pass stops at the
    lowest trained block. What a model has learnt in its lower blocks stays as it was.

    Args:
        model: a transformers model or our decoder, whose blocks are its first `nn.ModuleList`.
        count: how many blocks; 0: the whole model is trained.

    Returns:
        The model.

    Raises:
        CourseError: the model has fewer blocks.
    """
    model.requires_grad_(count == 0)
    if count == 0:
        return model
    blocks = next((module for module in model.modules() if isinstance(module, nn.ModuleList)), nn.ModuleList())
    if not 0 < count <= len(blocks):
        raise CourseError(
            f"The last {count} blocks cannot be trained: this model has {len(blocks)}. Give 1 to {len(blocks)}, or 0 "
            "for the whole model."
        )
    for block in blocks[-count:]:
        block.requires_grad_(True)
    return model
