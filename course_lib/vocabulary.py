"""The words of the course: the names that commands offer and rooms implement, and the other names that are understood.

One setting has one name everywhere: in a profile, a command, a class and a checkpoint. Users of other programs know it
by another; `OTHER_NAMES` is the one table of those. Cheap to import: the command line needs it before torch.
"""

import difflib
import re
from collections.abc import Iterable
from typing import TypeAlias

from course_lib.errors import CourseError

MODES = ("full", "lora", "qlora", "butterfly", "butterfly-block")  # of course train
BACKENDS = ("ours", "bitsandbytes")  # what holds a base in 4 bits
QUANT_TYPES = ("nf4", "fp4", "int4")  # the kinds of 4-bit numbers, as course_lib.quantization has them
MIN_LR_RATIO = {"cosine": 0.1, "linear": 0.0, "constant": 1.0}  # where each schedule ends, if nothing else is said
SCHEDULES = tuple(MIN_LR_RATIO)
HALF_DTYPES = ("bfloat16", "float16")
DTYPES = ("float32", *HALF_DTYPES)

OtherNames: TypeAlias = dict[str, str | tuple[str, ...]]  # another program's option: ours, or ours and a value

# Names that mean the same in every command.
_ANYWHERE: OtherNames = {
    "--output-dir": "--output",
    "--learning-rate": "--lr",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--max-steps": "--steps",
    "--per-device-train-batch-size": "--batch-size",
    "--per-device-eval-batch-size": "--eval-batch-size",
    "--batch": "--batch-size",
    "--grad-accum": "--grad-accum-steps",
    "--gradient-accumulation-steps": "--grad-accum-steps",
    "--accumulate": "--grad-accum-steps",
    "--lora-r": "--rank",
    "--lora-rank": "--rank",
    "--lora-alpha": "--alpha",
    "--dropout": "--lora-dropout",
    "--rslora": "--use-rslora",
    "--targets": "--target-modules",
    "--lora-target-modules": "--target-modules",
    "--torch-dtype": "--dtype",
    "--clip": "--max-grad-norm",
    "--floor": "--min-lr-ratio",
    "--max-seq-length": "--seq-len",
    "--max-length": "--seq-len",
    "--lr-scheduler-type": "--schedule",
}
_TRAIN: OtherNames = {
    "--data": "--dataset",
    "--data-dir": "--dataset",
    "--dataset-name": "--dataset",
    "--model-name-or-path": "--model",
    "--model-dir": "--model",
    "--pretrained-dir": "--model",
    "--lora-out": "--output",
    "--block-size": "--seq-len",
    "--stages": "--butterfly-stages",
    "--target-tokens-per-step": "--tokens-per-step",
    "--target-tokens": "--tokens-per-step",
    "--checkpoint-activations": "--gradient-checkpointing",
    "--activation-checkpointing": "--gradient-checkpointing",
    "--evaluation-strategy": "--eval-strategy",
    "--eval-steps": "--eval-every",
    "--eval-interval": "--eval-every",
    "--logging-steps": "--log-every",
    "--log-interval": "--log-every",
    "--save-steps": "--checkpoint-every",
    "--save-total-limit": "--keep",
    "--resume-from-checkpoint": ("--resume", "auto"),  # there the same command begins a run and goes on with it
    "--bnb-4bit-quant-type": "--quant-type",
    "--bnb-4bit-use-double-quant": "--double-quant",
    "--use-double-quant": "--double-quant",
    "--bnb-4bit-compute-dtype": "--autocast",
    "--load-in-4bit": ("--mode", "qlora"),
    "--no-cuda": ("--device", "cpu"),
    "--use-cpu": ("--device", "cpu"),
    "--bf16": ("--autocast", "bfloat16"),
    "--fp16": ("--autocast", "float16"),
}
_ALIGN: OtherNames = {
    "--data-dir": "--data",
    "--dataset": "--data",
    "--model-name-or-path": "--model",
    "--pretrained-dir": "--model",
    "--model-dir": "--model",
    "--lora-out": "--output",
    "--block-size": "--seq-len",
    "--no-cuda": ("--device", "cpu"),
}
_MERGE: OtherNames = {
    "--lora": "--adapter",
    "--adapter-path": "--adapter",
    "--model": "--base",
    "--model-path": "--base",
}
_COMPARE: OtherNames = _MERGE | {"--no-cuda": ("--device", "cpu"), "--max-length": "--max-new-tokens"}
_GENERATE: OtherNames = {
    "--model-path": "--model",
    "--model-name-or-path": "--model",
    "--base": "--model",
    "--adapter-path": "--adapter",
    "--lora": "--adapter",
    "--lora-path": "--adapter",
    "--max-length": "--max-new-tokens",
    "--max-tokens": "--max-new-tokens",
    "--no-cuda": ("--device", "cpu"),
}
# vLLM's names among them
_SERVE: OtherNames = {
    "--model-path": "--model",
    "--model-name-or-path": "--model",
    "--base": "--model",
    "--adapter-path": "--adapter",
    "--lora": "--adapter",
    "--lora-path": "--adapter",
    "--lora-modules": "--adapter",
    "--max-tokens": "--max-new-tokens",
    "--max-num-seqs": "--max-batch",
    "--block-size": "--page-size",
    "--num-gpu-blocks-override": "--max-pages",
    "--timeout": "--time-limit",
}
_BENCH: OtherNames = {"--model-path": "--model"}
# `course sft` and `course dpo` count steps in micro-batches of examples.
_ALIGNED: OtherNames = {other: own for other, own in _TRAIN.items() if own != "--tokens-per-step"}
OTHER_NAMES: dict[str, OtherNames] = {
    "": dict(_ANYWHERE),
    "train": dict(_TRAIN),
    "sft": dict(_ALIGNED),
    "dpo": dict(_ALIGNED),
    "align": dict(_ALIGN),
    "compare": dict(_COMPARE),
    "merge": dict(_MERGE),
    "generate": dict(_GENERATE),
    "chat": dict(_GENERATE),
    "serve": dict(_SERVE),
    "bench": dict(_BENCH),
}
# Values of options that choose from a list.
OTHER_VALUES = {
    "baseline": "full",
    "constant-with-warmup": "constant",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
OPTION = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)


def canonical(argv: list[str]) -> list[str]:
    """The command line with the names that our parsers know: hyphens for underscores, then `OTHER_NAMES`.

    What follows a bare ``--`` and what does not look like an option is left alone, so values are never changed. For
    `course serve` the ``--`` is left out: in uvicorn's command line, the application's own options follow it.

    Raises:
        CourseError: an option that stands for another with its value (``--no-cuda``) was given a value.
    """
    verb = next((word for word in argv if not word.startswith("-")), "")
    names = OTHER_NAMES[""] | OTHER_NAMES.get(verb, {})
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--" and verb == "serve":
            continue
        if word == "--":
            return words + argv[position:]
        if not OPTION.fullmatch(word):
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        meant = names.get(flag, flag)
        if isinstance(meant, str):
            words.append(meant + equals + value)
        elif equals:
            raise CourseError(f"{flag} takes no value: it stands for {' '.join(meant)}. Leave ={value} out.")
        else:
            words += meant
    return words


def canonical_value(text: str, choices: Iterable[str]) -> str:
    """The choice that a word means, with hyphens for underscores and by the names of other programs (`OTHER_VALUES`).

    Args:
        text: the word.
        choices: the values that an option takes.

    Returns:
        One of the choices; `text` itself where it means none of them.
    """
    known = tuple(choices)
    hyphens = text.replace("_", "-")
    for value in (text, hyphens, OTHER_VALUES.get(hyphens)):
        if value in known:
            return value
    return text


def nearest_option(flag: str, known: Iterable[str], verb: str) -> str | None:
    """The option of a command that `flag` was probably meant to be, by its own name; None where nothing is near.

    Args:
        flag: what was written, such as "--stepps".
        known: the options of the command.
        verb: the command, whose other names count too.

    Returns:
        The option, or None.
    """
    own = {option: option for option in known if option.startswith("--")}
    for other, meant in (OTHER_NAMES[""] | OTHER_NAMES.get(verb, {})).items():
        first = meant if isinstance(meant, str) else meant[0]
        if first in own:
            own.setdefault(other, first)
    found = difflib.get_close_matches(flag.replace("_", "-"), own, n=1, cutoff=0.7)
    return own[found[0]] if found else None


def other_names(verb: str, known: Iterable[str]) -> str:
    """A paragraph for a command's help: which names of other programs it understands.

    Args:
        verb: the command.
        known: its options; names that stand for an option which it does not have are left out.

    Returns:
        The paragraph.
    """
    options = set(known)
    meant: dict[str, list[str]] = {}
    for other, own in (OTHER_NAMES[""] | OTHER_NAMES.get(verb, {})).items():
        words = (own,) if isinstance(own, str) else own
        if words[0] in options:
            meant.setdefault(" ".join(words), []).append(other)
    lines = [f"  {own:26} {' '.join(others)}" for own, others in sorted(meant.items())]
    if options & {"--mode", "--dtype", "--schedule"}:
        lines.append("  values: " + ", ".join(f"{other} for {own}" for other, own in OTHER_VALUES.items()))
    return "\n".join(["names of other programs that are understood (underscores count as hyphens):", *lines])
