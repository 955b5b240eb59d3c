"""A 4-bit weight as tensors with the names and contents that bitsandbytes 0.50 writes, and back.

For a layer `q_proj` a checkpoint of transformers holds, beside its bias:

    q_proj.weight                                  uint8 (ceil(n / 2), 1), the codes
    q_proj.weight.absmax                           float32 (blocks,), or uint8 with double quantisation
    q_proj.weight.quant_map                        float32 (16,), the levels
    q_proj.weight.nested_absmax                    float32 (blocks / 256,), with double quantisation
    q_proj.weight.nested_quant_map                 float32 (256,), likewise
    q_proj.weight.quant_state.bitsandbytes__nf4    JSON in bytes: kind, block size, dtype, shape, nested offset

tests/quantization/test_files.py compares all of them with bitsandbytes' own, bit for bit.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.quantization.levels import LEVELS, dynamic_map
from course_lib.quantization.tensor import NESTED_BLOCK, QuantizedTensor

BITSANDBYTES_TYPES = ("nf4", "fp4")
STATE = "quant_state.bitsandbytes__"


def to_state(quantized: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors of one weight, by the ends of their names: "" for the codes, ".absmax" and so on.

    It raises CourseError for a kind that bitsandbytes does not have.
    """
    q = quantized
    if q.quant_type not in BITSANDBYTES_TYPES:
        raise CourseError(
            f"bitsandbytes' files have no {q.quant_type!r}: quantise to one of {', '.join(BITSANDBYTES_TYPES)} to save "
            "in 4 bits, or save the dequantised model."
        )
    about: dict[str, Any] = {
        "quant_type": q.quant_type,
        "blocksize": q.block_size,
        "dtype": str(q.dtype).removeprefix("torch."),
        "shape": list(q.shape),
    }
    tensors = {"": q.packed.reshape(-1, 1), ".absmax": q.absmax, ".quant_map": LEVELS[q.quant_type]()}
    if q.nested_absmax is not None and q.nested_offset is not None:
        about |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": q.nested_offset.item()}
        tensors |= {".nested_absmax": q.nested_absmax, ".nested_quant_map": dynamic_map()}
    # A copy of each: safetensors refuses tensors that share memory.
    copies = {end: tensor.detach().cpu().clone().contiguous() for end, tensor in tensors.items()}
    return copies | {f".{STATE}{q.quant_type}": torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)}


def from_state(name: str, tensors: dict[str, Tensor]) -> QuantizedTensor:
    """The weight that some tensors of a checkpoint stand for.

    Args:
        name: the weight's, for errors.
        tensors: by the ends of their names, as in `to_state`.

    Returns:
        The quantised weight.

    Raises:
        CourseError: a tensor is missing or has another size than the others say, or the kind is not read here.
    """
    about = _about(name, tensors)
    shape, block = torch.Size(about["shape"]), about["blocksize"]
    count = math.prod(shape)
    blocks = math.ceil(count / block)
    nested = "nested_offset" in about
    packed = tensors[""].contiguous().view(torch.uint8).flatten()  # bnb_4bit_quant_storage may name another dtype
    _check_tensor(name, "", packed, torch.uint8, math.ceil(count / 2))
    absmax = _part(name, tensors, ".absmax", torch.uint8 if nested else torch.float32, blocks)
    _check_table(name, tensors, ".quant_map", LEVELS[about["quant_type"]]())
    nested_absmax = nested_offset = None
    if nested:
        if about["nested_blocksize"] != NESTED_BLOCK:
            raise CourseError(
                f"{name} has constants in blocks of {about['nested_blocksize']}; here they are read in blocks of "
                f"{NESTED_BLOCK}: dequantise the model where it was made."
            )
        nested_absmax = _part(name, tensors, ".nested_absmax", torch.float32, math.ceil(blocks / NESTED_BLOCK))
        _check_table(name, tensors, ".nested_quant_map", dynamic_map())
        nested_offset = torch.tensor(float(about["nested_offset"]))
    dtype = getattr(torch, about["dtype"])
    return QuantizedTensor(packed, absmax, shape, about["quant_type"], block, dtype, nested_absmax, nested_offset)


def _about(name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the JSON of `quant_state` says, its values checked."""
    found = [end for end in tensors if end.startswith(f".{STATE}")]
    if len(found) != 1:
        raise CourseError(f"{name} has {len(found)} tensors named {STATE}nf4 or the like, where 1 says how to read it.")
    about: Any = None
    try:
        about = json.loads(bytes(tensors[found[0]].tolist()))
        readable = (
            about["quant_type"] in BITSANDBYTES_TYPES
            and isinstance(about["blocksize"], int)
            and about["blocksize"] > 0
            and len(about["shape"]) == 2
            and isinstance(getattr(torch, about["dtype"]), torch.dtype)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        readable = False
    if not readable:
        raise CourseError(
            f"{name}{found[0]} is damaged: it does not say kind, block size, dtype and shape of a weight."
        )
    return about


def _part(name: str, tensors: dict[str, Tensor], end: str, dtype: torch.dtype, count: int) -> Tensor:
    if end not in tensors:
        raise CourseError(f"The checkpoint is not complete: {name}{end} is missing. Save or download it again.")
    return _check_tensor(name, end, tensors[end], dtype, count)


def _check_tensor(name: str, end: str, tensor: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    if tensor.dtype == dtype and tensor.shape == (count,):
        return tensor
    rewritten = tensor.dtype == torch.bfloat16 and tensor.dim() == 2
    hint = (
        " bitsandbytes rounds and transposes the constants when a model is evaluated on some processors before it is "
        "saved: save it before its first evaluation."
        if rewritten
        else " Save or download it again."
    )
    raise CourseError(
        f"{name}{end} is {tensor.dtype} {tuple(tensor.shape)} and should be {dtype} ({count},) by its "
        f"quant_state.{hint}"
    )


def _check_table(name: str, tensors: dict[str, Tensor], end: str, expected: Tensor) -> None:
    """Levels other than ours would silently be other weights."""
    table = _part(name, tensors, end, torch.float32, len(expected))
    if not torch.equal(table, expected):
        raise CourseError(f"{name}{end} holds other levels than this kind has: they are not read here.")
