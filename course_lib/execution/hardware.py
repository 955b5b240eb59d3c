"""What a run may use: the seed's `HardwareConfig`, and what this machine has of it."""

import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.environment import available_memory, hardware, usable_cores
from course_lib.suggestions import did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("bf16", "fp16", "no")


@dataclass(frozen=True)
class HardwareConfig:
    """The hardware that a profile is made for: its table `hardware`.

    Attributes:
        device: "auto" takes a GPU where there is one.
        num_gpus: GPUs of one node; 0 for a CPU.
        gpu_memory_gb: memory of one GPU in GB (1e9 bytes), as its maker counts.
        mixed_precision: "bf16" or "fp16", the dtype of the forward pass under autocast, or "no".
        gradient_checkpointing: recompute activations in the backward pass.
        is_distributed: the run has several processes.
        world_size: how many, over all nodes.

    Raises:
        CourseError: a value is not possible, or two of them contradict each other.
    """

    device: str = "auto"
    num_gpus: int = 1
    gpu_memory_gb: float = 12
    mixed_precision: str = "bf16"
    gradient_checkpointing: bool = True
    is_distributed: bool = False
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("device", DEVICES), ("mixed_precision", PRECISIONS)):
            if (given := getattr(self, name)) not in choices:
                raise CourseError(f"hardware.{name} = {given!r}: choose {' or '.join(choices)}.")
        if self.num_gpus < 0 or self.world_size < 1 or self.gpu_memory_gb < 0:
            raise CourseError("hardware: num_gpus and gpu_memory_gb are at least 0, and world_size at least 1.")
        if not self.is_distributed and self.world_size > 1:
            raise CourseError(f"hardware.world_size = {self.world_size}: that asks for is_distributed = true.")
        if self.device in ("cpu", "mps") and self.num_gpus > 1:
            raise CourseError(
                f"hardware.num_gpus = {self.num_gpus} and device = {self.device!r} contradict each other."
            )
        if self.num_gpus and self.is_distributed and self.world_size % self.num_gpus:
            raise CourseError(
                f"hardware.world_size = {self.world_size} is not a multiple of num_gpus = {self.num_gpus}: every node "
                "runs one process for each of its GPUs."
            )

    @classmethod
    def of(cls, table: dict) -> "HardwareConfig":
        """From a profile's table `hardware`. Raises CourseError where it has a key that is not ours."""
        known = [each.name for each in fields(cls)]
        for key in table.keys() - set(known):
            raise CourseError(f"hardware has no setting {key!r}; it has {', '.join(known)}.{did_you_mean(key, known)}")
        return cls(**table)

    @property
    def nodes(self) -> int:
        """How many nodes a distributed run takes."""
        return max(1, self.world_size // max(self.num_gpus, 1)) if self.is_distributed else 1

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 GPU", "3 GPUs".

    Args:
        number: how many there are.
        thing: the word for one of them.

    Returns:
        The words.
    """
    return f"{number} {thing if number == 1 else thing + ('es' if thing.endswith('s') else 's')}"


def detect() -> HardwareConfig:
    """What this machine has, as a configuration for one process."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return HardwareConfig("cuda", torch.cuda.device_count(), round(memory, 1), precision, memory < 24)
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    precision = "bf16" if "bfloat16" in " ".join(fast_products()) else "no"
    return HardwareConfig(device, int(device == "mps"), 0, precision, False)


def check_against_this_machine(wanted: HardwareConfig, name: str) -> None:
    """Refuse what cannot run here, before anything is loaded.

    Args:
        wanted: what a profile asks for.
        name: of the profile.

    Raises:
        CourseError: the machine lacks GPUs, their memory or their precision.
    """
    if wanted.device in ("auto", "cpu"):
        return
    import torch

    if wanted.device == "mps":
        if not torch.backends.mps.is_available():
            raise CourseError(f"Profile {name!r} wants an Apple GPU (mps), and torch sees none. Use --profile cpu.")
        return
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.num_gpus > present:
        has, instead = (f"sees {present}", "cpu or gpu") if present else ("sees none", "cpu")
        gpus = counted(wanted.num_gpus, "GPU")
        raise CourseError(f"Profile {name!r} wants {gpus} and torch {has}. Use --profile {instead}.")
    if wanted.mixed_precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise CourseError(
            f"Profile {name!r} computes in bf16, which {torch.cuda.get_device_name(0)} does not have: "
            "--set hardware.mixed_precision=fp16."
        )
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    if wanted.gpu_memory_gb > 1.1 * memory:
        raise CourseError(
            f"Profile {name!r} is made for GPUs of {wanted.gpu_memory_gb:g} GB, and this one has {memory:.0f} GB. "
            "Choose a smaller profile, or say what there is: --set hardware.gpu_memory_gb=N."
        )


def fast_products() -> list[str]:
    """The instructions of this processor for matrix products in few bits, by what they multiply."""
    known = {
        "amx_bf16": "bfloat16 (AMX)",
        "amx_int8": "int8 (AMX)",
        "avx512_bf16": "bfloat16 (AVX-512)",
        "avx512_vnni": "int8 (AVX-512 VNNI)",
    }
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    flags = next((line.split() for line in text.splitlines() if line.startswith(("flags", "Features"))), [])
    return [meaning for flag, meaning in known.items() if flag in flags] + ["bfloat16 (Arm)"] * ("bf16" in flags)


def found() -> dict[str, Any]:
    """Everything that `course doctor` says about the machine."""
    import torch

    return hardware() | {
        "usable_cores": usable_cores(),
        "available_memory_bytes": available_memory(),
        "fast_products": fast_products(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "mps": torch.backends.mps.is_available(),
        "python": platform.python_version(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "as_profile": detect().as_dict(),
    }
