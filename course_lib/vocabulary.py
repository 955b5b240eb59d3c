"""The words of the course: the names that commands offer and rooms implement, and the other names that are understood.

One setting has one name everywhere: in a profile, a command, a class and a checkpoint. Users of other programs know it
by another; `OTHER_NAMES` is the one table of those. Cheap to import: the command line needs it before torch.
"""

MODES = ("full", "lora", "qlora", "butterfly", "butterfly-block")  # of course train
MIN_LR_RATIO = {"cosine": 0.1, "linear": 0.0, "constant": 1.0}  # where each schedule ends, if nothing else is said
SCHEDULES = tuple(MIN_LR_RATIO)
HALF_DTYPES = ("bfloat16", "float16")
DTYPES = ("float32", *HALF_DTYPES)

# Names that mean the same in every command.
_ANYWHERE = {
    "--output-dir": "--output",
    "--learning-rate": "--lr",
    "--num-train-epochs": "--epochs",
    "--max-steps": "--steps",
    "--per-device-train-batch-size": "--batch-size",
    "--per-device-eval-batch-size": "--eval-batch-size",
    "--batch": "--batch-size",
    "--grad-accum": "--grad-accum-steps",
    "--gradient-accumulation-steps": "--grad-accum-steps",
    "--accumulate": "--grad-accum-steps",
    "--lora-r": "--rank",
    "--lora-alpha": "--alpha",
    "--dropout": "--lora-dropout",
    "--rslora": "--use-rslora",
    "--targets": "--target-modules",
    "--torch-dtype": "--dtype",
    "--clip": "--max-grad-norm",
    "--floor": "--min-lr-ratio",
    "--max-seq-length": "--seq-len",
    "--lr-scheduler-type": "--schedule",
}
_TRAIN = {
    "--data": "--dataset",
    "--model-name-or-path": "--model",
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
    "--resume-from-checkpoint": "--resume",
    "--no-cuda": ("--device", "cpu"),
    "--use-cpu": ("--device", "cpu"),
    "--bf16": ("--autocast", "bfloat16"),
    "--fp16": ("--autocast", "float16"),
}
_ALIGN = {
    "--data-dir": "--data",
    "--dataset": "--data",
    "--pretrained-dir": "--model",
    "--model-dir": "--model",
    "--lora-out": "--output",
}
_COMPARE = {"--lora": "--adapter", "--adapter-path": "--adapter", "--model": "--base", "--model-path": "--base"}
OTHER_NAMES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "": _ANYWHERE,
    "train": _TRAIN,
    "align": _ALIGN,
    "compare": _COMPARE,
    "merge": _COMPARE,
}


def canonical(argv: list[str]) -> list[str]:
    """The command line with the names that our parsers know: hyphens for underscores, then `OTHER_NAMES`.

    What follows a bare ``--`` and what does not begin with two hyphens is left alone, so values are never changed.
    """
    verb = next((word for word in argv if not word.startswith("-")), "")
    names = OTHER_NAMES[""] | OTHER_NAMES.get(verb, {})
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return words + argv[position:]
        if not word.startswith("--"):
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        meant = names.get(flag, flag)
        first, *rest = (meant,) if isinstance(meant, str) else meant
        words += [first + equals + value, *rest]
    return words


def other_names(verb: str) -> str:
    """A paragraph for a command's help: which names of other programs it understands."""
    meant: dict[str, list[str]] = {}
    for other, own in OTHER_NAMES.get(verb, {}).items():
        meant.setdefault(own if isinstance(own, str) else " ".join(own), []).append(other)
    lines = [f"  {own:26} {' '.join(others)}" for own, others in sorted(meant.items())]
    return "\n".join(["other names of options (underscores count as hyphens):", *lines])
