"""`course dpo`: a model learns which of two answers is preferred."""

import argparse
from typing import TYPE_CHECKING

from course_lib.alignment.settings import DPOSettings
from course_lib.commands import Subparsers
from course_lib.commands.sft import check_records_of
from course_lib.commands.train import Stage, add_run_options, run_stage
from course_lib.finetuning.settings import Settings

if TYPE_CHECKING:
    from course_lib.finetuning.plan import Plan

DESCRIPTION = """Direct preference optimisation: teach a model which of two answers is preferred.

  course dpo --output runs/preferred                       SmolLM2, LoRA, 600 generated pairs
  course dpo --dataset pairs.jsonl --beta 0.3              {"prompt", "chosen", "rejected"}, HH-RLHF ...
  course dpo --adapter runs/answers --dataset pairs.jsonl  after course sft: its adapter, frozen, is the reference
  course dpo --model runs/answers_merged --dataset pairs.jsonl    after course sft and course merge
  course dpo --loss-type ipo                               less prone to overfit pairs that all agree
  course dpo --loss-type simpo --gamma 1                   no reference, by length
  course dpo --label-smoothing 0.1                         where one label in ten may be wrong
  course dpo --reference cached --epochs 3                 the reference's values, computed once
  course dpo --output runs/preferred --resume              go on after an interruption
  course dpo --dry-run                                     the plan and the memory it takes; touches nothing

What happens: the chosen answer's reward, beta log(p / p_ref), is pushed above the rejected one's. p_ref is
the model at the start: with a new adapter its base, so nothing has to be kept twice; with --adapter that
adapter as it came. The first loss is ln 2, 0.6931. Both answers share one computation of their prompt.

What to watch: margins should grow and accuracies rise above 0.5, while the chosen reward does not sink far.
Where it sinks and the margin still grows, both answers are being forgotten, and the run stops and says so.

--dataset: preferences (generated, the default), or a file or folder of pairs. Pairs whose answers are equal,
empty or cut away are counted, named and left out. A part is held out: the data set's own, else the last tenth.

Defaults are in brackets."""

EPILOG = """Nothing moves? A smaller --beta, or a higher --lr. The run diverges? The opposite. The answers get
longer? Pairs whose chosen answers are longer teach length: --loss-type simpo or ipo divide by it.
Then look: course compare --adapter runs/preferred --prompt "..."

"""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course dpo` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "dpo",
        usage="course dpo [--dataset SOURCE] [--output DIR] [options]",
        help="teach a model which of two answers is preferred",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser, DPOSettings, "runs/dpo-DATASET")
    parser.epilog = EPILOG
    parser.set_defaults(run=lambda args: run_stage(args, Stage(DPOSettings, check_records_of, _plan)))


def _plan(settings: Settings) -> "Plan":
    from course_lib.alignment.preference_run import plan_dpo

    assert isinstance(settings, DPOSettings)
    return plan_dpo(settings)
