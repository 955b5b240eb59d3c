"""The settings of a fine-tuning run, their defaults by mode, and what is refused. Cheap: no torch.

A setting is declared here once: its name is the command's option, the key in run.json and, where the Trainer has it
too, the Trainer's. To add one, add a field, and use it where it counts.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from course_lib.errors import CourseError
from course_lib.files import refuse_missing_path
from course_lib.models.config import DecoderConfig
from course_lib.models.pretrained import DEFAULT
from course_lib.options import check_options, filled, flag_of, option
from course_lib.suggestions import similar_paths
from course_lib.vocabulary import BACKENDS, DEVICE, DTYPES, HALF_DTYPES, MIN_LR_RATIO, MODES, QUANT_TYPES, SCHEDULES

BUNDLED = "keepers_log"  # the text in the package
RUN, DATA, ADAPTER = "the run", "data", "the adapter"
STEPS, MEMORY = "steps", "precision and memory"
LORA_MODES = ("lora", "qlora")
BUTTERFLY_MODES = ("butterfly", "butterfly-block")
EVAL_STRATEGIES = ("no", "steps", "epoch")
GPT2 = "distilgpt2"  # the default model where --target-modules names layers that only GPT-2 has
GPT2_LAYERS = ("c_attn", "c_proj", "c_fc")


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run. Where a setting is None, its default depends on the mode, see `complete`.

    A command that trains something else has a subclass with its own settings, name, learning rates and length.

    Attributes:
        STAGE: the command, which run.json tells where it is not "train".
        RATES: the learning rate of each mode.
        LORA_STEPS: the steps of a LoRA run where neither steps nor epochs are given; 0: one pass.
        SHOWN: what the command's help says about defaults that are not those of `course train`.
        UNSHOWN: the headings of options that the command's help leaves out, because the command refuses them.
    """

    # Without annotations these are not fields, and not among __dataclass_fields__, as a ClassVar is.
    STAGE = "train"
    RATES = MappingProxyType({"lora": 3e-4, "qlora": 3e-4, "full": 5e-5, "butterfly": 1e-4, "butterfly-block": 1e-4})
    LORA_STEPS = 500
    SHOWN = MappingProxyType(dict[str, str]())
    UNSHOWN = tuple[str, ...]()

    mode: str = option(
        "lora",
        "full: all weights; lora, butterfly, butterfly-block: an adapter on a frozen base; qlora: LoRA on a base in "
        "4 bits",
        group=RUN,
        choices=MODES,
    )
    model: str = option(
        DEFAULT,
        "a model's name or folder, or a shape: see above",
        group=RUN,
        metavar="NAME",
        shown=f"{DEFAULT}; with GPT-2's --target-modules {GPT2}",
    )
    weights: str | None = option(
        None, "start from this state_dict (.pt) of the model, read without running any code in it", group=RUN,
        metavar="FILE",
    )  # fmt: skip
    from_scratch: bool = option(False, "random weights for a shape that the hub has too, such as gpt2", group=RUN)
    checkpoint_every: int | None = option(
        None, "steps between checkpoints; 0: none", group=RUN, shown="50", at_least=0, free=True
    )
    keep: int | None = option(
        None, "how many checkpoints stay, besides the best", group=RUN, shown="10; full: 2", at_least=1, free=True
    )
    eval_every: int = option(
        0, "steps between held-out evaluations; 0: only before and after the run", group=RUN, at_least=0
    )
    eval_strategy: str | None = option(
        None,
        "when to evaluate: no (only before and after), every --eval-every steps, or after each epoch",
        group=RUN,
        choices=EVAL_STRATEGIES,
        shown="steps",
    )
    log_every: int = option(10, "steps between printed lines; 0: none", group=RUN, at_least=0, free=True)
    seed: int = option(0, "seed of new weights, the order of the batches and dropout", group=RUN, at_least=0)
    threads: int = option(0, "threads of torch; 0: torch decides", group=RUN, at_least=0, free=True)
    device: str = option("auto", DEVICE, group=RUN, metavar="NAME", free=True)

    dataset: str = option(BUNDLED, "what to train on: see above", group=DATA, metavar="SOURCE")
    tokenizer: str | None = option(
        None,
        "a model's name or folder, or the .json file of a BPETokenizer",
        group=DATA,
        metavar="NAME",
        shown="the model's own; for a shape, SmolLM2's",
    )
    seq_len: int | None = option(
        None, "tokens in a row", group=DATA, at_least=2, shown="128; of records, what 99 in 100 need, up to 1024"
    )
    too_long: str | None = option(
        None,
        "what happens to a longer record or document: skip, cut-start (the answer keeps its end), cut-end, error",
        group=DATA,
        choices=("skip", "cut-start", "cut-end", "error"),
        shown="records: skip; documents: cut-end",
    )
    max_train_samples: int = option(
        0, "take at most N documents of a corpus, records, or blocks of a text; 0: all", group=DATA, at_least=0
    )
    max_eval_samples: int = option(64, "held-out rows at most; 0: all", group=DATA, at_least=0)
    template: str | None = option(
        None,
        "how records become text",
        group=DATA,
        choices=("chat", "instruction"),
        shown="chat where the tokenizer has a chat template, else instruction",
    )
    format: str = option("auto", "the format of records, where their keys do not tell it", group=DATA, metavar="NAME")
    map: str | None = option(
        None,
        "columns of records that have other names: prompt=question,response=answer",
        group=DATA,
        metavar="KEY=COLUMN,...",
    )
    train_on: str = option(
        "response",
        "which tokens of a record are targets: the last answer, every answer, or all",
        group=DATA,
        choices=("response", "assistant", "all"),
    )

    rank: int = option(8, "LoRA's rank", group=ADAPTER, at_least=1, modes=LORA_MODES)
    alpha: float = option(
        16.0, "LoRA's alpha: the change is scaled by alpha / rank", group=ADAPTER, above=0, modes=LORA_MODES
    )
    lora_dropout: float = option(
        0.0, "the share of LoRA's inputs that training drops", group=ADAPTER, at_least=0, below=1, modes=LORA_MODES
    )
    use_rslora: bool = option(False, "scale by alpha / sqrt(rank) instead", group=ADAPTER, modes=LORA_MODES)
    target_modules: tuple[str, ...] | None = option(
        None,
        "the layers that get an adapter, by the ends of their names",
        group=ADAPTER,
        metavar="LAYER",
        modes=MODES[1:],
        shown="GPT-2: c_attn; Llama and its kin: q_proj v_proj",
    )
    backend: str = option(
        "ours", "which package holds the base in 4 bits: this one, or bitsandbytes", group=ADAPTER, choices=BACKENDS,
        modes=("qlora",),
    )  # fmt: skip
    quant_type: str = option(
        "nf4",
        "kind of the base's 4-bit numbers; bitsandbytes lacks int4",
        group=ADAPTER,
        choices=QUANT_TYPES,
        modes=("qlora",),
    )
    double_quant: bool | None = option(
        None,
        "quantise the scales of the 4-bit blocks, too",
        group=ADAPTER,
        modes=("qlora",),
        shown="yes, as in the paper",
    )
    butterfly_stages: int | None = option(
        None,
        "rotations of a butterfly",
        group=ADAPTER,
        at_least=1,
        modes=BUTTERFLY_MODES,
        shown="6; butterfly-block: 8",
    )
    butterfly_block_size: int | None = option(
        None,
        "width of the blocks of butterfly-block, a power of two",
        group=ADAPTER,
        at_least=2,
        modes=("butterfly-block",),
        shown="the largest up to 256 that divides the inputs",
    )

    steps: int | None = option(
        None, "optimiser steps", group=STEPS, at_least=1, shown="lora, qlora: 500; else by --epochs"
    )
    epochs: float | None = option(
        None, "passes over the data, instead of --steps", group=STEPS, above=0, shown="full, butterflies: 1"
    )
    batch_size: int = option(4, "rows of a micro-batch, which torchrun's processes share out", group=STEPS, at_least=1)
    eval_batch_size: int | None = option(
        None, "rows of a batch of an evaluation", group=STEPS, at_least=1, shown="--batch-size", free=True
    )
    grad_accum_steps: int | None = option(
        None, "micro-batches of a step", group=STEPS, at_least=1, shown="lora, qlora: 4; else 1"
    )
    tokens_per_step: int | None = option(
        None,
        "token-aware steps: each document is a row of its own length, and a step takes micro-batches, each weighted "
        "by its tokens, until it has N; a checkpoint after every step, one pass",
        group=STEPS,
        at_least=1,
        shown="off",
    )
    lr: float | None = option(
        None, "peak learning rate", group=STEPS, above=0, shown="lora, qlora: 3e-4; butterflies: 1e-4; full: 5e-5"
    )
    schedule: str = option("cosine", "how the learning rate falls after the warm-up", group=STEPS, choices=SCHEDULES)
    warmup_ratio: float = option(0.1, "the share of the steps that warm up", group=STEPS, at_least=0, below=1)
    min_lr_ratio: float | None = option(
        None,
        "the last learning rate as a share of --lr, up to 1",
        group=STEPS,
        at_least=0,
        shown="cosine: 0.1; linear: 0; constant: 1",
    )
    weight_decay: float = option(0.0, "weight decay of AdamW", group=STEPS, at_least=0)
    max_grad_norm: float = option(1.0, "gradients of a larger norm are scaled down to it", group=STEPS, above=0)

    dtype: str = option(
        "float32",
        "dtype of the base's weights; full: also of the saved model; bfloat16 is trained with float32 master weights",
        group=MEMORY,
        choices=DTYPES,
    )
    autocast: str | None = option(
        None, "dtype in which the forward pass computes", group=MEMORY, choices=HALF_DTYPES, shown="off"
    )
    gradient_checkpointing: bool = option(
        False, "recompute activations: less memory, more time", group=MEMORY, shown="off"
    )
    compile: bool = option(False, "torch.compile the forward pass", group=MEMORY, shown="off")
    shard: bool = option(
        False,
        "each of several processes holds a part of weights, gradients and moments (FSDP2) instead of all of them (DDP)",
        group=MEMORY,
        modes=tuple(mode for mode in MODES if mode != "qlora"),
        shown="off",
        free=True,
    )

    def check(self) -> None:
        """Refuse what a subclass's own settings exclude; None has not been replaced by a default yet."""

    def own_shape(self, config: DecoderConfig) -> DecoderConfig:
        """The shape of a model that is trained from scratch, where a subclass changes it."""
        return config

    def own_defaults(self) -> dict[str, Any]:
        """The values of a subclass's own settings that depend on others."""
        return {}

    def own_model(self) -> str | None:
        """The model that other settings decide where none is given; None: the default."""
        return GPT2 if _are_gpt2s(self.target_modules) else None


# Settings that change neither the losses nor what is written: they may differ when a run is resumed.
FREE = {each.name for each in fields(Settings) if each.metadata["free"]}


def complete(explicit: dict[str, Any], kind: type[Settings] = Settings) -> Settings:
    """The settings of a new run: what was given, and the rest by mode.

    LoRA follows the course's guide: its learning rate is 3e-4, and it takes 500 steps of four micro-batches. Full
    training and butterflies take one pass, at 5e-5 and 1e-4. With tokens_per_step a run takes one pass and has a
    checkpoint after every step.

    Args:
        explicit: the settings that were given, by name.
        kind: the settings' class, which is the command's.

    Returns:
        The complete settings.

    Raises:
        CourseError: settings exclude each other, or one makes no sense.
    """
    given = kind(**explicit)
    check_options(given)
    _check_together(given, explicit)
    given.check()
    missing = {name: value for name, value in _defaults(given).items() if getattr(given, name) is None}
    if "model" not in explicit and (decided := given.own_model()):
        missing["model"] = decided
    if given.eval_strategy == "steps" and "eval_every" not in explicit:
        missing["eval_every"] = given.log_every  # as transformers' eval_steps follow its logging_steps
    settings = replace(given, **missing)
    if settings.eval_strategy == "steps" and not settings.eval_every:
        raise CourseError("--eval-strategy steps needs --eval-every N: after how many steps to evaluate.")
    if filled(settings.min_lr_ratio) > 1:
        raise CourseError(f"--min-lr-ratio {settings.min_lr_ratio} is not possible. It is a share of --lr, up to 1.")
    return settings


def _are_gpt2s(targets: tuple[str, ...] | None) -> bool:
    """Whether these are names of GPT-2's layers, which no other model of the course has."""
    return bool(targets) and all(target.split(".")[-1] in GPT2_LAYERS for target in targets or ())


def _defaults(given: Settings) -> dict[str, Any]:
    """The values of the settings that depend on others."""
    lora, token_aware = given.mode in LORA_MODES, given.tokens_per_step is not None
    by_steps = lora and not token_aware and given.epochs is None and given.LORA_STEPS > 0
    chosen: dict[str, Any] = {
        "lr": given.RATES[given.mode],
        "min_lr_ratio": MIN_LR_RATIO[given.schedule],
        "grad_accum_steps": 4 if lora and not token_aware else 1,
        "eval_batch_size": given.batch_size,
        "double_quant": True,
        "butterfly_stages": 8 if given.mode == "butterfly-block" else 6,
        "checkpoint_every": 1 if token_aware else 50,
        "keep": 2 if given.mode == "full" else 10,
    }
    if by_steps:
        chosen["steps"] = given.LORA_STEPS
    elif given.steps is None:
        chosen["epochs"] = 1.0
    return chosen | given.own_defaults()


def _check_together(given: Settings, explicit: dict[str, Any]) -> None:
    """CourseError where two settings exclude each other."""
    for each in fields(given):
        modes = each.metadata.get("modes")
        if each.name in explicit and modes and given.mode not in modes:
            raise CourseError(
                f"{flag_of(each.name)} belongs to --mode {', '.join(modes)} and not to {given.mode}. Leave it out, or "
                "choose another mode."
            )
    if given.backend == "bitsandbytes" and given.quant_type == "int4":
        raise CourseError("--quant-type int4 is not known to bitsandbytes. Choose nf4 or fp4, or --backend ours.")
    if given.steps and given.epochs:
        raise CourseError("--steps and --epochs both say how long to train: give one of them.")
    if given.tokens_per_step and given.grad_accum_steps:
        raise CourseError("--grad-accum-steps and --tokens-per-step both say when to step: give one of them.")
    if given.eval_strategy in ("no", "epoch") and given.eval_every:
        raise CourseError(f"--eval-strategy {given.eval_strategy} does not go with --eval-every: give one of them.")
    if given.weights and given.from_scratch:
        raise CourseError("--weights and --from-scratch both say where the weights come from: give one of them.")
    if given.mode == "full" and given.dtype == "float16":
        raise CourseError(
            "--mode full in --dtype float16 is not possible: gradients below 6e-8 become zero. Give --dtype bfloat16, "
            "which is trained with float32 master weights, or --dtype float32 with --autocast float16, which scales "
            "the loss."
        )


def check_files(settings: Settings) -> None:
    """Refuse settings that name a file of weights, a model's folder or a tokenizer that does not exist.

    The check comes at once, before torch is imported. Names of models are looked up later, when they are loaded.

    Args:
        settings: the run's.

    Raises:
        CourseError: a file or folder does not exist.
    """
    weights = Path(settings.weights or ".")
    if not weights.exists():
        raise CourseError(f"--weights {weights}: there is no such file.{similar_paths(weights)}")
    refuse_missing_path("--model", settings.model)
    refuse_missing_path("--tokenizer", settings.tokenizer or "", (".json",))


def shared_settings(settings: Settings, config: type) -> dict[str, Any]:
    """The settings that another dataclass has too.

    Args:
        settings: the run's.
        config: the dataclass, `TrainingConfig` for one.

    Returns:
        The settings by their common names.
    """
    names = {each.name for each in fields(config)}
    return {name: value for name, value in asdict(settings).items() if name in names}


def setting_names(kind: type[Settings] = Settings) -> set[str]:
    """The options that are settings of a run, of one command."""
    return {each.name for each in fields(kind)}
