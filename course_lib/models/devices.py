"""Where a model computes."""

from collections.abc import Callable

import torch
from torch import nn

from course_lib.errors import CourseError


def check_device(name: str) -> str:
    """`name`, where torch can compute on a device of that name; CourseError otherwise."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # an unknown name, none of that kind here, torch built without
        found = "cpu and cuda" if torch.cuda.is_available() else "only cpu, because torch sees no GPU"
        raise CourseError(f"There is no device {name!r} here. You can choose {found}.") from error
    return name


def choose_device(name: str = "auto") -> str:
    """The device to compute on: for "auto" the GPU where torch sees one, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return check_device(name)


def wait_for(device: str) -> Callable[[], None]:
    """Make a function that waits until `device` has computed all that was asked of it. A CPU has no queue."""
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def device_of(module: nn.Module) -> torch.device:
    """Where the tensors of a model or a layer are. (A quantised layer may have buffers and no parameters.)"""
    tensor = next(iter(module.parameters()), None)
    return (next(module.buffers()) if tensor is None else tensor).device
