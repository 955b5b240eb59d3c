"""`course sft`: a model learns to answer, from records of questions and answers."""

import argparse
from typing import TYPE_CHECKING

from course_lib.alignment.settings import SFTSettings
from course_lib.commands import Subparsers
from course_lib.commands.train import Stage, add_run_options, run_stage
from course_lib.finetuning.settings import Settings

if TYPE_CHECKING:
    from course_lib.finetuning.plan import Plan

DESCRIPTION = """Supervised fine-tuning: teach a model to answer, from records of questions and answers.

  course sft --output runs/answers                          SmolLM2, LoRA, 1,000 generated instructions
  course sft --dataset my_records.jsonl --output runs/mine  Alpaca, chat, ShareGPT, OpenAssistant, GSM8K ...
  course sft --dataset chats.jsonl --train-on assistant     every answer of a conversation, not only the last
  course sft --dataset mine.json --template instruction     "### Instruction:" instead of the chat template
  course sft --packing --seq-len 512                        short examples share rows: fewer steps
  course sft --mode full --model runs/scratch               all weights, of a model of one's own
  course sft --mode qlora --rank 16                         LoRA on a base in 4 bits
  course sft --output runs/answers --resume                 go on after an interruption
  course sft --dry-run                                      the plan and the memory it takes; touches nothing

What is trained: the answer's tokens and the token that ends it. The prompt is masked, so the model is not
taught to ask. The loss is the mean over all trained tokens of a step, whatever their examples' lengths.

--dataset: instructions (generated, the default), or a file or folder of records (.json, .jsonl, .csv,
.parquet); course data check says what is in it. A part is held out: the data set's own, else the last tenth.

Defaults are in brackets."""

EPILOG = """The model does not stop? Its end token was not learnt: records that were cut at their end do not have
it (--too-long skip). It answers in the wrong form? Train and ask with the same --template. The held-out loss rises?
Fewer --epochs, or a lower --lr. Then look: course compare --adapter runs/answers --prompt "..."
Next: course dpo, which prefers one answer to another.

"""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course sft` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "sft",
        usage="course sft [--dataset SOURCE] [--output DIR] [options]",
        help="teach a model to answer, from records of questions and answers",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser, SFTSettings, "runs/sft-DATASET")
    parser.epilog = EPILOG
    parser.set_defaults(run=lambda args: run_stage(args, Stage(SFTSettings, check_records_of, _plan)))


def check_records_of(settings: Settings) -> None:
    """Refuse a source without records, before anything heavy is imported."""
    from course_lib.alignment.sources import check_records

    check_records(settings.dataset, settings.format, settings.map)


def _plan(settings: Settings) -> "Plan":
    from course_lib.alignment.sft import plan_sft

    assert isinstance(settings, SFTSettings)
    return plan_sft(settings)
