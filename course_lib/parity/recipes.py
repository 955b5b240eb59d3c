"""The recipes of the alignment table and the settings of such a run. Cheap: no torch.

A setting is declared here once; its name is the option of `course align run` and the key in run.json.
"""

import math
from dataclasses import dataclass

from course_lib.errors import CourseError
from course_lib.models.pretrained import DEFAULT
from course_lib.options import check_options, option
from course_lib.vocabulary import SCHEDULES, TRAINED_DTYPES

RUN, ADAPTER, STEPS = "the run", "the adapter", "steps"
SPLIT_LAYERS = {  # Llama, Gemma: one matrix for each projection
    "light": ("q_proj", "v_proj"),
    "full": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
FUSED_LAYERS = {  # GPT-2: query, key and value in one
    "light": ("c_attn",),
    "full": ("c_attn", "attn.c_proj"),
    "all": ("c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
}


@dataclass(frozen=True)
class AlignSettings:
    """What decides the numbers of a run. Where `target_modules` is empty, all weights are trained.

    Raises:
        CourseError: a number is out of its range.
    """

    model: str = option("", "a model's name or folder", group=RUN, metavar="NAME", shown="the recipe's")
    dataset: str = option(
        "wikitext2",
        "wikitext2 or tinystories (from the hub or its cache), keepers_log (in the package), a WikiText folder or a "
        "text file",
        group=RUN,
        metavar="SOURCE",
    )
    split: str = option("train", "part of a WikiText folder that is read", group=RUN, choices=("train", "val", "test"))
    documents: int | None = option(None, "read the first N documents", group=RUN, at_least=1, shown="all")
    seq_len: int = option(128, "tokens in a row", group=RUN, at_least=2, shown="128; gemma-lora: 256")
    dtype: str = option("float32", "dtype of the base model's weights", group=RUN, choices=TRAINED_DTYPES)
    dump_gradients: int = option(
        0, "write the gradients of the first N steps, as the optimiser gets them", group=RUN, at_least=0
    )
    seed: int = option(0, "seed of the start and of the order of the data", group=RUN, at_least=0)

    target_modules: tuple[str, ...] = option(
        (),
        "the layers with an adapter, by the ends of their names",
        group=ADAPTER,
        metavar="LAYER",
        shown="see --target-mode",
    )
    rank: int = option(8, "LoRA's rank", group=ADAPTER, at_least=1)
    alpha: float = option(
        16.0, "LoRA's alpha: the change is scaled by alpha / rank", group=ADAPTER, above=0, shown="16; gemma-lora: 32"
    )
    lora_dropout: float = option(0.0, "the share of LoRA's inputs that is dropped", group=ADAPTER, at_least=0, below=1)

    epochs: int = option(1, "passes over the data", group=STEPS, at_least=1)
    steps: int | None = option(None, "optimiser steps, instead of --epochs", group=STEPS, at_least=1)
    batch_size: int = option(8, "rows of a micro-batch", group=STEPS, at_least=1, shown="gpt2-lora: 8; else 4")
    grad_accum_steps: int = option(1, "micro-batches of a step", group=STEPS, at_least=1)
    lr: float = option(2e-4, "peak learning rate", group=STEPS, above=0, shown="2e-4; gpt2-full: 5e-5")
    schedule: str = option(
        "cosine",
        "how the learning rate falls: cosine to a tenth, linear to zero, constant not at all",
        group=STEPS,
        choices=SCHEDULES,
        shown="cosine; gemma-lora: linear",
    )
    warmup_ratio: float = option(
        0.03, "the share of the steps over which the learning rate rises", group=STEPS, at_least=0, below=1
    )
    weight_decay: float = option(0.0, "weight decay of AdamW", group=STEPS, at_least=0)
    max_grad_norm: float = option(1.0, "gradients of a larger norm are scaled down to it", group=STEPS, above=0)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up, rounded up as transformers' Trainer does. CourseError while `steps` is not known."""
        if self.steps is None:
            raise CourseError("The steps of the warm-up are a share of all steps, which are not known yet.")
        return math.ceil(self.warmup_ratio * self.steps)


RECIPES = {
    "gpt2-lora": AlignSettings("gpt2", target_modules=FUSED_LAYERS["full"]),
    "gpt2-full": AlignSettings("gpt2", batch_size=4, lr=5e-5),
    "gemma-lora": AlignSettings(
        "google/gemma-3-270m",
        target_modules=SPLIT_LAYERS["full"],
        batch_size=4,
        seq_len=256,
        alpha=32.0,
        schedule="linear",
    ),
    "smollm2-lora": AlignSettings(DEFAULT, target_modules=SPLIT_LAYERS["light"], batch_size=4),
}


def targets_of(recipe: str, mode: str) -> tuple[str, ...]:
    """The layers that get an adapter, by the ends of their names.

    Args:
        recipe: a name in `RECIPES`, which tells the kind of model.
        mode: "light" (query and value), "full" (attention) or "all".

    Returns:
        The ends of the names.
    """
    return (FUSED_LAYERS if recipe.startswith("gpt2") else SPLIT_LAYERS)[mode]
