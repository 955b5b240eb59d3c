"""The settings of a training run, their defaults by mode, and what is refused. Cheap: no torch."""

import math
from dataclasses import dataclass, fields, replace

from course_lib.errors import CourseError
from course_lib.models.pretrained import DEFAULT

BUNDLED = "keepers_log"  # the text in the package
MODES = ("full", "lora", "qlora", "butterfly", "butterfly-block")
SCHEDULES = ("cosine", "linear", "constant")  # as in course_lib.training, whose import takes a second
HALVES = ("bfloat16", "float16")
DTYPES = ("float32", *HALVES)
# The adapter's settings, by the modes that have them
MODES_OF = dict.fromkeys(("rank", "alpha", "dropout", "rslora"), ("lora", "qlora")) | {
    "targets": MODES[1:],
    "stages": ("butterfly", "butterfly-block"),
    "block_size": ("butterfly-block",),
}
# Settings that change neither the losses nor what is written: they may differ when a run is resumed.
FREE = {"threads", "device", "checkpoint_every", "keep", "log_every"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run; the command's options have the same names. None: see `defaults`."""

    mode: str = "lora"
    model: str = DEFAULT
    from_scratch: bool = False
    tokenizer: str | None = None
    dataset: str = BUNDLED
    template: str | None = None
    train_on: str = "response"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False
    stages: int | None = None
    block_size: int | None = None
    lr: float | None = None
    schedule: str = "cosine"
    warmup_ratio: float = 0.1
    floor: float | None = None
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 4
    accumulate: int | None = None
    target_tokens: int | None = None
    seq_len: int = 128
    steps: int | None = None
    epochs: float | None = None
    max_train_samples: int = 0
    max_eval_samples: int = 64
    eval_every: int = 0
    log_every: int = 10
    dtype: str = "float32"
    autocast: str | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    checkpoint_every: int | None = None
    keep: int | None = None
    seed: int = 0
    threads: int = 0
    device: str = "auto"


def defaults(explicit: dict) -> Settings:
    """The settings of a new run: what was given, the rest by mode.

    LoRA as the course's guide has it: learning rate 3e-4, 500 steps of four micro-batches. Full training and
    butterflies: one pass, 5e-5 and 1e-4. --target-tokens: one pass, and a checkpoint after every step.
    Raises CourseError where settings exclude each other or make no sense.
    """
    given = Settings(**explicit)
    for name in explicit:
        if given.mode not in (modes := MODES_OF.get(name, (given.mode,))):
            raise CourseError(f"--{name.replace('_', '-')} is of --mode {', '.join(modes)}, not of {given.mode}.")
    lora, aware = given.mode in ("lora", "qlora"), given.target_tokens is not None
    if given.steps and given.epochs:
        raise CourseError("--steps and --epochs both say how long to train: give one of them.")
    if aware and given.accumulate:
        raise CourseError("--accumulate and --target-tokens both say when to step: give one of them.")
    chosen = {
        "lr": 3e-4 if lora else {"full": 5e-5}.get(given.mode, 1e-4),
        "accumulate": 4 if lora and not aware else 1,
        "stages": 8 if given.mode == "butterfly-block" else 6,
        "checkpoint_every": 1 if aware else 50,
        "keep": 2 if given.mode == "full" else 10,
        "steps": 500 if lora and not aware and given.epochs is None else None,
        "floor": {"linear": 0.0, "constant": 1.0}.get(given.schedule, 0.1),
    }
    if chosen["steps"] is None and given.steps is None and given.epochs is None:
        chosen["epochs"] = 1.0
    settings = replace(given, **{key: value for key, value in chosen.items() if getattr(given, key) is None})
    _check(settings)
    return settings


def _check(s: Settings) -> None:
    known = {"mode": MODES, "schedule": SCHEDULES, "dtype": DTYPES, "autocast": (None, *HALVES)}
    for name, allowed in known.items():
        if getattr(s, name) not in allowed:
            raise CourseError(f"--{name} {getattr(s, name)}: choose from {', '.join(map(str, filter(None, allowed)))}.")
    for name in ("lr", "clip", "batch_size", "accumulate", "steps", "epochs", "target_tokens", "keep"):
        value = getattr(s, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise CourseError(f"--{name.replace('_', '-')} {value}: a number above 0.")
    for name in ("eval_every", "checkpoint_every", "max_train_samples", "max_eval_samples", "threads", "log_every"):
        if getattr(s, name) < 0:
            raise CourseError(f"--{name.replace('_', '-')} {getattr(s, name)}: 0 or more.")
    if s.seq_len < 2:
        raise CourseError(f"--seq-len {s.seq_len}: at least 2, to predict one token from another.")
    if not (0 <= s.warmup_ratio < 1 and 0 <= s.floor <= 1 and s.weight_decay >= 0):
        raise CourseError("--warmup-ratio is a share below 1, --floor one up to 1, --weight-decay not negative.")
    if s.mode == "full" and s.dtype == "float16":
        raise CourseError(
            "--mode full in --dtype float16 underflows: use float32 with --autocast float16, or bfloat16."
        )


def setting_names() -> set[str]:
    """The options that are settings of a run."""
    return {field.name for field in fields(Settings)}
