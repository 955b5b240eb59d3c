"""The settings of `course pretrain`, `course sft` and `course dpo`: those of `course train` and their own. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from course_lib.alignment.loss_types import LOSS_TYPES, check_loss
from course_lib.errors import CourseError
from course_lib.finetuning.folder import base_beside, refuse_foreign_base
from course_lib.finetuning.settings import ADAPTER, DATA, LORA_MODES, RUN, Settings
from course_lib.models.config import CONFIGS, DecoderConfig, gpt2_of_the_same_size
from course_lib.models.folder import refuse_verifier
from course_lib.options import option
from course_lib.suggestions import did_you_mean, similar_paths

if TYPE_CHECKING:
    from course_lib.data.mixture import DataConfig

FAMILIES = ("llama", "gpt2")
MIX = ("worked=0.45", "sums=0.25", "stories=0.1", "exercises=0.1", "prose=0.1")
REFERENCES = ("adapter-off", "copy", "cached")
LOSS = "the preference loss"
SOURCE = "a file or folder of records, or a generated data set: instructions, preferences"
# What the help of `course sft` and `course dpo` says about defaults that are not those of `course train`.
ONE_PASS = MappingProxyType({"steps": "by --epochs", "epochs": "1", "too_long": "skip"})
BETA = {"sigmoid": 0.1, "ipo": 0.1, "hinge": 0.1, "simpo": 2.0}


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """Pretraining from random weights on a mix of corpora, in one pass over a given number of tokens."""

    STAGE = "pretrain"
    RATES = MappingProxyType(dict.fromkeys(Settings.RATES, 1e-3))
    SHOWN = MappingProxyType(
        {
            "lr": "1e-3",
            "grad_accum_steps": "1",
            "keep": "2",
            "seq_len": "128",
            "tokenizer": "one that is learnt from the mix",
        }
    )
    UNSHOWN = (ADAPTER,)

    mode: str = "full"  # without `option`, the command does not offer these
    dataset: str = "mix"
    too_long: str | None = None
    template: str | None = None
    format: str = "auto"
    map: str | None = None
    train_on: str = "all"
    max_train_samples: int = 0
    steps: int | None = None
    epochs: float | None = None
    tokens_per_step: int | None = None

    model: str = option("modern-1m", "a shape to train from random weights: see above", group=RUN, metavar="SHAPE")
    family: str = option("llama", "gpt2: a GPT-2 of the same size, for comparison", group=RUN, choices=FAMILIES)
    dataset_mix: tuple[str, ...] = option(
        MIX, "corpora with their shares of the tokens", group=DATA, metavar="CORPUS=SHARE", shown=" ".join(MIX)
    )
    tokens_target: int = option(1_000_000, "tokens to train on", group=DATA, at_least=1)
    max_epochs: float = option(4.0, "passes over a corpus at most", group=DATA, above=0)
    allow_more_epochs: bool = option(False, "read a corpus more often than that where its share needs it", group=DATA)
    in_order: bool = option(False, "one corpus after the other, rows in their own order", group=DATA, shown="mixed")
    vocab_size: int = option(
        512, "ids of the tokenizer that is learnt where --tokenizer is not given", group=DATA, at_least=300
    )

    def check(self) -> None:
        """Refuse a mix that cannot be read, an unknown shape, and a GPT-2 baseline for one that is a GPT-2 already.

        Raises:
            CourseError: see `data_config`; or there is no such shape; or the mode trains an adapter, which needs a
                trained base.
        """
        self.data_config()
        # Another name may be the hub's, which is looked up later.
        meant_as_shape = self.model.startswith(("tiny", "modern")) and "/" not in self.model
        if meant_as_shape and self.model not in CONFIGS and not Path(self.model).is_dir():
            raise CourseError(
                f"--model {self.model}: there is no such shape. Choose one of {', '.join(CONFIGS)}."
                f"{did_you_mean(self.model, CONFIGS)}"
            )
        if self.mode != "full":
            raise CourseError(f"Pretraining trains all weights: --mode {self.mode} is for a base that has learnt.")
        if self.family == "gpt2" and self.model in CONFIGS and CONFIGS[self.model].model_type == "gpt2":
            raise CourseError(f"--family gpt2: {self.model} is a GPT-2 already. Leave --family out.")

    def data_config(self) -> "DataConfig":
        """The mix as `read_mixture` takes it.

        Raises:
            CourseError: a part is not of the form CORPUS=SHARE, or its corpus does not exist.
        """
        from course_lib.data.mixture import DataConfig  # NumPy, which `course --help` does without

        mix = {}
        for part in self.dataset_mix:
            name, equals, share = part.rpartition("=")
            try:
                mix[name] = float(share)
            except ValueError:
                equals = ""
            if not (name and equals):
                raise CourseError(f"--dataset-mix {part!r} is not CORPUS=SHARE. Write keepers_log=0.1, for example.")
        return DataConfig(mix, self.tokens_target, not self.in_order, self.max_epochs, self.allow_more_epochs)

    def own_shape(self, config: DecoderConfig) -> DecoderConfig:
        """The named shape, or a GPT-2 of its size."""
        return gpt2_of_the_same_size(config) if self.family == "gpt2" else config

    def own_defaults(self) -> dict[str, Any]:
        """One pass over the tokens, in rows of 128."""
        return {"seq_len": 128}


@dataclass(frozen=True)
class SFTSettings(Settings):
    """Supervised fine-tuning on records, in one pass and with masked prompts."""

    STAGE = "sft"
    LORA_STEPS = 0
    SHOWN = MappingProxyType(ONE_PASS | {"seq_len": "what 99 in 100 records need, up to 1024; with --packing 512"})

    dataset: str = option("instructions", SOURCE, group=DATA, metavar="SOURCE")
    packing: bool = option(
        False,
        "lay examples end to end in rows of --seq-len tokens, where none of them sees another: fewer and fuller rows",
        group=DATA,
        shown="off",
    )
    tokens_per_step: int | None = None  # without `option`, the command does not offer it

    def own_defaults(self) -> dict[str, Any]:
        """Packed rows have 512 tokens by default."""
        return {"seq_len": 512} if self.packing else {}


@dataclass(frozen=True)
class DPOSettings(Settings):
    """Preference optimisation on pairs, in one pass and with learning rates far below those of fine-tuning."""

    STAGE = "dpo"
    LORA_STEPS = 0
    RATES = MappingProxyType({"lora": 5e-5, "qlora": 5e-5, "full": 1e-6, "butterfly": 5e-5, "butterfly-block": 5e-5})
    SHOWN = MappingProxyType(
        ONE_PASS
        | {
            "lr": "full: 1e-6; else 5e-5",
            "seq_len": "for a prompt and one answer, what 99 in 100 pairs need, up to 1024",
        }
    )

    dataset: str = option("preferences", SOURCE, group=DATA, metavar="SOURCE")
    train_on: str = "response"  # without `option`, the command does not offer these
    tokens_per_step: int | None = None

    loss_type: str = option(
        "sigmoid", "DPO is sigmoid; ipo, hinge and simpo are its relatives", group=LOSS, choices=LOSS_TYPES
    )
    beta: float | None = option(
        None,
        "how strongly the model is held to the reference; a smaller value lets it move further",
        group=LOSS,
        above=0,
        shown="0.1; simpo: 2",
    )
    label_smoothing: float = option(
        0.0, "the share of pairs that may be labelled the wrong way round (cDPO)", group=LOSS, at_least=0, below=0.5
    )
    gamma: float = option(0.5, "simpo: the margin between the two rewards", group=LOSS, at_least=0)
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
        "a LoRA adapter to go on from, such as that of course sft; a frozen copy of it is the reference. It decides "
        "layers, rank and, without --model, the base",
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
        """Refuse an adapter that does not exist, or that other settings exclude."""
        if not Path(adapter).is_dir():
            raise CourseError(f"--adapter {adapter}: there is no such folder.{similar_paths(Path(adapter))}")
        refuse_verifier(Path(adapter))
        if self.mode not in LORA_MODES:
            raise CourseError(
                f"--adapter holds LoRA matrices: it goes with --mode lora or qlora, not with {self.mode}."
            )
        if self.reference == "cached":
            raise CourseError(
                "--reference cached holds the values of the base, and with --adapter the reference is the adapter as "
                "it came: give copy, or leave --reference out."
            )

    def own_model(self) -> str | None:
        """With --adapter the base that it was trained on: on another one it says something else."""
        if self.adapter is None:
            return super().own_model()
        adapter = Path(self.adapter)
        if beside := base_beside(adapter):
            return beside
        try:
            name = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a damaged file is refused where it is read, and one that names no base takes the default
        if not isinstance(name, str) or not name:
            return None
        refuse_foreign_base(adapter, name, "--model")
        return name

    def own_defaults(self) -> dict[str, Any]:
        """beta and the reference, which depend on the loss and the mode."""
        chosen: dict[str, Any] = {"beta": BETA[self.loss_type]}
        if self.loss_type != "simpo":
            chosen["reference"] = "copy" if self.mode == "full" or self.adapter else "adapter-off"
        return chosen
