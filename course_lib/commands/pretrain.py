"""`course pretrain`: a decoder of our own learns the next token of a mix of corpora, from random weights."""

import argparse
from typing import TYPE_CHECKING

from course_lib.alignment.settings import PretrainSettings
from course_lib.commands import Subparsers
from course_lib.commands.train import Stage, add_run_options, run_stage
from course_lib.finetuning.settings import Settings

if TYPE_CHECKING:
    from course_lib.finetuning.plan import Plan

DESCRIPTION = """Pretrain a decoder of our own from random weights, on a mix of corpora.

  course pretrain --output runs/base                       a million parameters, a million tokens: a few minutes
  course pretrain --dataset-mix worked=0.5 wikitext2=0.5 --tokens-target 2000000
  course pretrain --dataset-mix my_book.txt=1 --tokens-target 400000 --max-epochs 8
  course pretrain --family gpt2 --output runs/gpt2         a GPT-2 of the same size, to compare with
  course pretrain --output runs/base --resume              go on after an interruption
  course pretrain --dry-run                                the plan and the memory it takes; touches nothing

--dataset-mix: worked, sums, stories, exercises, prose (generated, without end), keepers_log,
instructions (in the package), wikitext2, tinystories (from the hub or its cache), a text file, a folder with
wiki.train.raw. A corpus is read again where its share asks for more than it has, --max-epochs times at most.

--model: tiny-gpt, tiny-llama, modern-200k, modern-1m, modern-5m, modern-15m, modern-60m, modern-125m,
modern-400m. Where --tokenizer is not given, one is learnt from the mix.

Defaults are in brackets."""

EPILOG = """Next: course sft --model runs/base --mode full, which teaches it to answer. All stages in one
command: course pipeline run.

"""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course pretrain` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "pretrain",
        usage="course pretrain [--dataset-mix CORPUS=SHARE ...] [--output DIR] [options]",
        help="train a decoder of our own from random weights, on a mix of corpora",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser, PretrainSettings, "runs/pretrain-mix")
    parser.epilog = EPILOG
    parser.set_defaults(run=lambda args: run_stage(args, Stage(PretrainSettings, _check_mix, _plan)))


def _check_mix(settings: Settings) -> None:
    """Refuse a mix that cannot be read, before anything heavy is imported."""
    assert isinstance(settings, PretrainSettings)
    settings.data_config()


def _plan(settings: Settings) -> "Plan":
    from course_lib.alignment.pretrain import plan_pretrain

    assert isinstance(settings, PretrainSettings)
    return plan_pretrain(settings)
