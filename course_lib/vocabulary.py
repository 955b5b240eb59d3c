"""The words of the course: the names that commands offer and rooms implement, and the other names that are understood.

One setting has one name everywhere: in a profile, a command, a class and a checkpoint. Users of other programs know it
by another; `OTHER_NAMES` is the one table of those, and `meaning` the one rule. Cheap to import: the command line needs
it before torch.
"""

import difflib
import re
from collections.abc import Container, Iterable

from course_lib.errors import CourseError

MODES = ("full", "lora", "qlora", "butterfly", "butterfly-block")  # of course train
BACKENDS = ("ours", "bitsandbytes")  # what holds a base in 4 bits
QUANT_TYPES = ("nf4", "fp4", "int4")  # the kinds of 4-bit numbers, as course_lib.quantization has them
MIN_LR_RATIO = {"cosine": 0.1, "linear": 0.0, "constant": 1.0}  # where each schedule ends, if nothing else is said
SCHEDULES = tuple(MIN_LR_RATIO)
HALF_DTYPES = ("bfloat16", "float16")
DTYPES = ("float32", *HALF_DTYPES)
TRAINED_DTYPES = ("float32", "bfloat16")  # of whole weights: in float16, gradients below 6e-8 become zero
FORMATS = ("float32", "bfloat16", "int8", "int4")  # of the weights of a model that is prepared for a CPU
CACHES = ("none", "dynamic", "static", "int8", "paged", "sink")  # what course_lib.inference keeps of the tokens so far
VERIFIER_KINDS = ("encoder", "decoder")
VERIFIER_HEADS = ("last", "tokens")  # of the kind "decoder"
DEVICE = "where to compute: cpu, cuda, cuda:1, or auto, which is the GPU where there is one"

# Other programs' names of options, and ours. A name may mean several of ours, and stands for the first one that the
# command has; where the command has an option of that very name, it means that. A value after ours comes along.
#
# --block-size is the length of a sequence. A command without one may have pages of a cache, which vLLM calls blocks:
# in `course serve` and `course generate`, --block-size is --page-size.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    # what is read and written
    "--data": ("--dataset",),
    "--data-dir": ("--dataset",),
    "--dataset-name": ("--dataset",),
    "--model": ("--base",),
    "--base": ("--model",),
    "--model-name-or-path": ("--model", "--base"),
    "--model-path": ("--model", "--base"),
    "--model-dir": ("--model", "--base"),
    "--pretrained-dir": ("--model", "--base"),
    "--lora": ("--adapter",),
    "--lora-path": ("--adapter",),
    "--lora-modules": ("--adapter",),
    "--adapter-path": ("--adapter",),
    "--output": ("--out",),
    "--output-dir": ("--output", "--out"),
    "--lora-out": ("--output",),
    # the adapter
    "--lora-r": ("--rank",),
    "--lora-rank": ("--rank",),
    "--lora-alpha": ("--alpha",),
    "--dropout": ("--lora-dropout",),
    "--rslora": ("--use-rslora",),
    "--targets": ("--target-modules",),
    "--lora-target-modules": ("--target-modules",),
    "--stages": ("--butterfly-stages",),
    "--bnb-4bit-quant-type": ("--quant-type",),
    "--bnb-4bit-use-double-quant": ("--double-quant",),
    "--use-double-quant": ("--double-quant",),
    "--bnb-4bit-compute-dtype": ("--autocast",),
    "--load-in-4bit": ("--mode qlora",),
    # steps
    "--learning-rate": ("--lr",),
    "--lr-scheduler-type": ("--schedule",),
    "--floor": ("--min-lr-ratio",),
    "--clip": ("--max-grad-norm",),
    "--num-train-epochs": ("--epochs",),
    "--num-epochs": ("--epochs",),
    "--max-steps": ("--steps",),
    "--batch": ("--batch-size",),
    "--per-device-train-batch-size": ("--batch-size",),
    "--per-device-eval-batch-size": ("--eval-batch-size",),
    "--grad-accum": ("--grad-accum-steps",),
    "--gradient-accumulation-steps": ("--grad-accum-steps",),
    "--accumulate": ("--grad-accum-steps",),
    "--target-tokens-per-step": ("--tokens-per-step",),
    "--target-tokens": ("--tokens-per-step",),
    "--block-size": ("--seq-len", "--page-size"),
    "--max-seq-length": ("--seq-len",),
    "--max-length": ("--seq-len", "--max-new-tokens"),
    "--max-tokens": ("--max-new-tokens",),
    # evaluations, lines and checkpoints
    "--evaluation-strategy": ("--eval-strategy",),
    "--eval-steps": ("--eval-every",),
    "--eval-interval": ("--eval-every",),
    "--logging-steps": ("--log-every",),
    "--log-interval": ("--log-every",),
    "--save-steps": ("--checkpoint-every",),
    "--save-total-limit": ("--keep",),
    "--resume-from-checkpoint": ("--resume auto",),  # there the same command begins a run and goes on with it
    # precision, memory and the machine
    "--torch-dtype": ("--dtype",),
    "--bf16": ("--autocast bfloat16",),
    "--fp16": ("--autocast float16",),
    "--checkpoint-activations": ("--gradient-checkpointing",),
    "--activation-checkpointing": ("--gradient-checkpointing",),
    "--no-cuda": ("--device cpu",),
    "--use-cpu": ("--device cpu",),
    # serving: vLLM's names
    "--max-num-seqs": ("--max-batch",),
    "--num-gpu-blocks-override": ("--max-pages",),
    "--timeout": ("--time-limit",),
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


def meaning(flag: str, known: Container[str]) -> list[str] | None:
    """What an option means in a command, by its own name or by that of another program.

    Args:
        flag: the option, with hyphens.
        known: the options of the command.

    Returns:
        The option that the command knows, with the value that `flag` stands for; None where it means nothing there.
    """
    if flag in known:
        return [flag]
    candidates = [own.split() for own in OTHER_NAMES.get(flag, ())]
    return next((words for words in candidates if words[0] in known), None)


def canonical(argv: Iterable[str], known: Container[str]) -> list[str]:
    """The words of a command with the names that its parser knows: hyphens for underscores, then `OTHER_NAMES`.

    What follows a bare ``--`` and what does not look like an option is left alone, so values are never changed.

    Args:
        argv: the words after the command's name.
        known: the options of the command.

    Returns:
        The words for its parser.

    Raises:
        CourseError: an option that stands for another with its value (``--no-cuda``) was given a value.
    """
    given, words = list(argv), list[str]()
    for position, word in enumerate(given):
        if word == "--":
            return words + given[position:]
        if not OPTION.fullmatch(word):
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        own, *values = meaning(flag, known) or [flag]
        if values and equals:
            raise CourseError(f"{flag} takes no value: it stands for {own} {' '.join(values)}. Leave ={value} out.")
        words += [own + equals + value, *values]
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


def nearest_option(flag: str, known: Iterable[str]) -> str | None:
    """The option of a command that `flag` was probably meant to be, by its own name; None where nothing is near.

    Args:
        flag: what was written, such as "--stepps".
        known: the options of the command. Their names in other programs count too.

    Returns:
        The option, or None.
    """
    own = {option: option for option in known if option.startswith("--")}
    meant = {other: words[0] for other in OTHER_NAMES if (words := meaning(other, own))}
    found = difflib.get_close_matches(flag.replace("_", "-"), meant | own, n=1, cutoff=0.7)
    return (meant | own)[found[0]] if found else None


def other_names(known: Iterable[str]) -> str:
    """A paragraph for a command's help: which names of other programs it understands.

    Args:
        known: the options that its help lists.

    Returns:
        Lines of text; none where the command has no option with another name.
    """
    options = set(known)
    others: dict[str, list[str]] = {}
    for other in OTHER_NAMES.keys() - options:
        if words := meaning(other, options):
            others.setdefault(" ".join(words), []).append(other)
    lines = [f"  {own:26} {' '.join(sorted(names))}" for own, names in sorted(others.items())]
    if options & {"--mode", "--dtype", "--schedule"}:
        lines.append("  values: " + ", ".join(f"{other} for {own}" for other, own in OTHER_VALUES.items()))
    title = "names of other programs that are understood (underscores count as hyphens):"
    return "\n".join([title, *lines]) if lines else ""
