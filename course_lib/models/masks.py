"""Attention masks of one's own, in the form that a model's attention understands."""

from typing import Any

import torch
from torch import Tensor, nn

from course_lib.errors import CourseError


def mask_for(model: nn.Module, allowed: Tensor) -> Tensor:
    """Bring a mask of True and False into the form that a model adds up or selects with.

    transformers hands a mask of four dimensions to the attention as it is. "sdpa" reads True as "may see". "eager" adds
    the mask to the scores: True would add 1 there and False 0, nothing would be hidden, and no error would say so. It
    needs 0 and the most negative number.

    Args:
        model: ours or transformers', perhaps wrapped for several processes.
        allowed: bool (batch, 1, time, time), True where a token (third axis) may see another (fourth axis).

    Returns:
        `allowed` itself, or the same as numbers to add, in the dtype of the model's weights.

    Raises:
        CourseError: the model's attention takes no mask of one's own, as flash attention.
    """
    config: Any = getattr(getattr(model, "module", model), "config", None)
    kind = getattr(config, "_attn_implementation", None) or "sdpa"
    if kind == "sdpa":
        return allowed
    if kind != "eager":
        raise CourseError(
            f"The model's attention {kind!r} takes no mask that keeps packed texts apart. Load it with "
            "attn_implementation='sdpa'."
        )
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    hidden = torch.full(allowed.shape, torch.finfo(dtype).min, dtype=dtype, device=allowed.device)
    return hidden.masked_fill(allowed, 0.0)
