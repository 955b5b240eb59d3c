"""The settings of `course sft` and `course dpo`: those of `course train`, and their own. Cheap: no torch."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from course_lib.alignment.loss_types import LOSS_TYPES, check_loss
from course_lib.errors import CourseError
from course_lib.finetuning.settings import DATA, LORA_MODES, RUN, Settings
from course_lib.options import option
from course_lib.suggestions import similar_paths

REFERENCES = ("adapter-off", "copy", "cached")
LOSS = "the preference loss"
SOURCE = "a file or folder of records, or a generated data set: instructions, preferences"
BETA = {"sigmoid": 0.1, "ipo": 0.1, "hinge": 0.1, "simpo": 2.0}


@dataclass(frozen=True)
class SFTSettings(Settings):
    """Supervised fine-tuning on records: one pass, prompts masked."""

    STAGE = "sft"
    LORA_STEPS = 0

    dataset: str = option("instructions", SOURCE, group=DATA, metavar="SOURCE")
    packing: bool = option(
        False,
        "lay examples end to end in rows of --seq-len tokens, where none of them sees another: fewer and fuller rows",
        group=DATA,
        shown="off",
    )
    tokens_per_step: int | None = None  # without `option`, the command does not offer it

    def own_defaults(self) -> dict[str, Any]:
        """Packed rows have 512 tokens where nothing else is said."""
        return {"seq_len": 512} if self.packing else {}


@dataclass(frozen=True)
class DPOSettings(Settings):
    """Preference optimisation on pairs: one pass, and learning rates far below those of fine-tuning."""

    STAGE = "dpo"
    LORA_STEPS = 0
    RATES = MappingProxyType({"lora": 5e-5, "qlora": 5e-5, "full": 1e-6, "butterfly": 5e-5, "butterfly-block": 5e-5})

    dataset: str = option("preferences", SOURCE, group=DATA, metavar="SOURCE")
    train_on: str = "response"  # without `option`, the command does not offer these
    tokens_per_step: int | None = None

    loss_type: str = option(
        "sigmoid", "DPO is sigmoid; ipo, hinge and simpo are its relatives", group=LOSS, choices=LOSS_TYPES
    )
    beta: float | None = option(
        None, "how dear it is to leave the reference: smaller moves the model further", group=LOSS, above=0,
        shown="0.1; simpo: 2",
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "the share of pairs that may be labelled the wrong way round (cDPO)", group=LOSS, at_least=0, below=0.5
    )
    gamma: float = option(0.5, "simpo's margin between the two rewards", group=LOSS, at_least=0)
    reference: str | None = option(
        None,
        "what the model is held to: adapter-off, its base; copy, a frozen copy of it; cached, values computed once and "
        "kept in the run's folder",
        group=LOSS,
        choices=REFERENCES,
        shown="adapter-off; full and --adapter: copy; simpo has none",
    )
    adapter: str | None = option(
        None,
        "go on from this LoRA adapter, one of course sft for example: it has the layers and the rank, and a frozen "
        "copy of it is the reference",
        group=RUN,
        metavar="DIR",
    )

    def check(self) -> None:
        """Refuse settings of the loss that exclude each other.

        Raises:
            CourseError: label smoothing or a reference is given to a loss without it, or there is no adapter to switch
                off.
        """
        check_loss(self.loss_type, 1.0 if self.beta is None else self.beta, self.label_smoothing)
        if self.reference and self.loss_type == "simpo":
            raise CourseError("--reference does not go with --loss-type simpo, which has no reference: leave it out.")
        if self.reference == "adapter-off" and self.mode == "full":
            raise CourseError(
                "--reference adapter-off needs an adapter, and --mode full has none: give copy or cached."
            )
        if self.adapter is not None:
            self._check_adapter(self.adapter)

    def _check_adapter(self, adapter: str) -> None:
        """Refuse an adapter that is not there, or that other settings exclude."""
        if not Path(adapter).is_dir():
            raise CourseError(f"--adapter {adapter}: there is no such folder.{similar_paths(Path(adapter))}")
        if self.mode not in LORA_MODES:
            raise CourseError(
                f"--adapter holds LoRA matrices: it goes with --mode lora or qlora, not with {self.mode}."
            )
        if self.reference == "cached":
            raise CourseError(
                "--reference cached holds the values of the base, and with --adapter the reference is the adapter as "
                "it came: give copy, or leave --reference out."
            )

    def own_defaults(self) -> dict[str, Any]:
        """beta and the reference, which depend on the loss and the mode."""
        chosen: dict[str, Any] = {"beta": BETA[self.loss_type]}
        if self.loss_type != "simpo":
            chosen["reference"] = "copy" if self.mode == "full" or self.adapter else "adapter-off"
        return chosen
