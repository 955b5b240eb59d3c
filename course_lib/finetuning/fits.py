"""Whether a profile's model fits: its training into the GPUs it is made for, and its use into 12 GB.

A large profile trains on a cluster, and its model is then used on a reader's own GPU. So every profile's model has to
fit into `USED_GB` at inference, whatever it was trained on.
"""

from dataclasses import dataclass

from course_lib.errors import CourseError
from course_lib.execution.hardware import HardwareConfig
from course_lib.finetuning.memory import MemorySettings, estimate_memory
from course_lib.finetuning.model import known_shape

USED_GB = 12  # the GPU on which every profile's model can be used: an RTX 3060
CONTEXT_GB = 1.0  # what CUDA, its libraries and the allocator's holes take beside the tensors
AUTOCAST = {"bf16": "bfloat16", "fp16": "float16", "no": None}


@dataclass(frozen=True)
class Fit:
    """Bytes by the formulas of `finetuning.memory`.

    Attributes:
        parameters: of the model.
        training: at the worst moment of a step, on one GPU.
        in_use: weights in half precision and the cache of one full context.
    """

    parameters: int
    training: int
    in_use: int


def fit_of(model: dict, hardware: HardwareConfig) -> Fit:
    """What a profile's model takes.

    Args:
        model: a profile's table `model`.
        hardware: its table `hardware`.

    Returns:
        The bytes.

    Raises:
        CourseError: there is no such shape, or its context is shorter than `seq_len`.
    """
    shape = known_shape(model["config"])
    limit = getattr(shape.config, "max_position_embeddings", None)
    if limit and model["seq_len"] > limit:
        raise CourseError(f"model.seq_len = {model['seq_len']}: {model['config']} has {limit} positions.")
    training = MemorySettings(
        mode="full",
        batch_size=model["batch_size"],
        seq_len=model["seq_len"],
        autocast=AUTOCAST[hardware.mixed_precision],
        gradient_checkpointing=hardware.gradient_checkpointing,
    )
    in_use = MemorySettings(mode="inference", batch_size=1, seq_len=limit or model["seq_len"], dtype="bfloat16")
    frozen = known_shape(model["config"], "bfloat16").requires_grad_(False)
    parameters = sum(p.numel() for p in shape.parameters())
    return Fit(parameters, estimate_memory(shape, training).total, estimate_memory(frozen, in_use).total)


def check_fit(name: str, table: dict) -> Fit | None:
    """Refuse a profile whose model does not fit.

    Args:
        name: of the profile.
        table: its whole content.

    Returns:
        What the model takes; None where the profile has no tables `model` and `hardware`.

    Raises:
        CourseError: training does not fit into one of its GPUs, or use not into `USED_GB`.
    """
    if "model" not in table or "hardware" not in table:
        return None
    hardware = HardwareConfig.of(table["hardware"])
    fit, there = fit_of(table["model"], hardware), 1e9 * (hardware.gpu_memory_gb - CONTEXT_GB)
    if hardware.gpu_memory_gb and fit.training > there:
        cures = ["a smaller model.batch_size"]
        cures += [] if hardware.gradient_checkpointing else ["hardware.gradient_checkpointing = true"]
        raise CourseError(
            f"Profile {name!r}: training {table['model']['config']} takes {fit.training / 1e9:.1f} GB, and a GPU of "
            f"{hardware.gpu_memory_gb:g} GB has {there / 1e9:.1f} to give. Set {' or '.join(cures)}."
        )
    if fit.in_use > 1e9 * (USED_GB - CONTEXT_GB):
        raise CourseError(
            f"Profile {name!r}: {table['model']['config']} takes {fit.in_use / 1e9:.1f} GB in use, and every profile's "
            f"model has to fit into a GPU of {USED_GB} GB. Choose a smaller model.config."
        )
    return fit
