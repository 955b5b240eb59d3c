"""`course data`: look at data sets, check files of records, and turn text into token shards."""

import argparse
from dataclasses import replace
from pathlib import Path

from course_lib.commands import Subparsers, add_device, add_resume, prepare, require_adapter, require_model
from course_lib.commands.generate import TOP_P
from course_lib.errors import CourseError
from course_lib.files import refuse_missing_path
from course_lib.suggestions import did_you_mean, similar_paths

MOST_SHOWN = 2000  # characters of a turn that are printed

CHECK = """Read records, count them by format, and name every row that cannot be used and every field that is
not. Exit status 1 if a row is malformed.

  course data check my_records.jsonl
  course data check a_folder --split test
  course data check answers.csv --map prompt=question,response=answer
  course data check openai/gsm8k --config main

Formats: Alpaca, chat, ShareGPT, question and answer, preferences, HH-RLHF, OpenAssistant, GSM8K. Files:
.json, .jsonl, .ndjson, .csv, .tsv (also .gz, .bz2, .xz), .parquet, .arrow; a folder; a name on the hub."""

PREFERENCES = """Sample several answers to each problem from a model, let an exact verifier say which are right, and
write pairs of a right and a wrong answer, which course dpo learns from.

  course data make-preferences --model runs/answers --output pairs.jsonl
  course data make-preferences --model runs/answers --problems gsm8k/train.jsonl --limit 200 --output pairs.jsonl
  course data make-preferences --problems instructions --samples 16 --temperature 0.7 --output pairs.jsonl
  course data make-preferences --model runs/answers --output pairs.jsonl --resume    after an interruption
  course dpo --model runs/answers --dataset pairs.jsonl

--problems: word_problems (generated, the default) or instructions; or a file of records with a final answer, as
GSM8K's have after "####". Beside pairs.jsonl, pairs.samples.jsonl keeps every answer with its verdict: course
verifier train --dataset pairs.samples.jsonl learns from it. Problems without a right or a wrong answer give no pair:
they are counted and named. The same seed gives the same answers.

Defaults are in brackets."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course data` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "data", help="check files of records, turn text into token shards, see the embedded data sets"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    prepare.add_parser(actions, "text files to token shards; `course prepare` is the same command")
    _add_check(actions)
    _add_preferences(actions)
    cards = actions.add_parser(
        "card", help="what the data sets in the package are", description="Print a data set's card, or all names."
    )
    cards.add_argument("name", nargs="?", help="which one (default: list them)")
    cards.set_defaults(run=run_card)


def _add_check(actions: Subparsers) -> None:
    check = actions.add_parser(
        "check",
        help="which rows of a file of records can be used",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=CHECK,
    )
    check.add_argument("source", help="file, folder, or a data set's name on the hub")
    check.add_argument(
        "--format", default="auto", metavar="NAME", help="the format of the records (told by their keys)"
    )
    check.add_argument("--map", metavar="KEY=COLUMN,...", help="the keys where they have other names: prompt=question")
    check.add_argument("--split", metavar="NAME", help="the split of a hub name (train), or the part of a folder (all)")
    check.add_argument("--config", metavar="NAME", help="the configuration of a hub name")
    check.add_argument("--show", type=int, default=1, metavar="N", help="print the first N records (1)")
    check.set_defaults(run=run_check)


def _add_preferences(actions: Subparsers) -> None:
    make = actions.add_parser(
        "make-preferences",
        help="pairs for course dpo from a model's own answers",
        usage="course data make-preferences --output FILE [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=PREFERENCES,
    )
    make.add_argument("--output", type=Path, required=True, metavar="FILE", help="a new .jsonl file (needed)")
    make.add_argument("--model", metavar="NAME", help="a name or a folder (the adapter's base, or SmolLM2)")
    make.add_argument("--adapter", type=Path, metavar="DIR", help="an adapter's folder, a checkpoint or a .pt file")
    make.add_argument("--problems", default="word_problems", metavar="SOURCE", help="see above (word_problems)")
    make.add_argument(
        "--split",
        default="train",
        choices=("train", "held_out"),
        help="part of a generated set or a folder (train)",
    )
    make.add_argument("--format", default="auto", metavar="NAME", help="the format of records (told by their keys)")
    make.add_argument("--limit", type=int, metavar="N", help="the first N problems (all)")
    make.add_argument("--samples", type=int, default=8, metavar="N", help="answers to each problem (8)")
    make.add_argument("--pairs-per-problem", type=int, default=1, metavar="N", help="most pairs of a problem (1)")
    make.add_argument("--temperature", type=float, default=1.0, metavar="X", help="temperature of draws, above 0 (1)")
    make.add_argument("--top-p", type=float, default=1.0, metavar="X", help=TOP_P)
    make.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="tokens of an answer (256)")
    make.add_argument(
        "--template",
        choices=("chat", "instruction"),
        help="how a problem is put to the model (chat, where its tokenizer has a chat template)",
    )
    make.add_argument("--seed", type=int, default=0, metavar="N", help="seed of problems, draws and pairs (0)")
    add_device(make)
    add_resume(make, "with the samples of an interrupted run")
    make.set_defaults(run=run_make_preferences)


def run_make_preferences(args: argparse.Namespace) -> int:
    """Sample, judge, pair; print what came out and which problems gave nothing."""
    samples_path = args.output.with_suffix(".samples.jsonl")
    if args.resume == "auto":
        if args.output.exists():
            print(f"{args.output} is there already: nothing is left to do.")
            return 0
        args.resume = samples_path.exists()
    _refuse_outputs(args.output, samples_path, args.resume)
    if args.pairs_per_problem < 1:  # said now, and not after all answers have been sampled
        raise CourseError(f"--pairs-per-problem {args.pairs_per_problem} is not possible. It has to be at least 1.")
    refuse_missing_path("--model", args.model or "")
    refuse_missing_path("--problems", args.problems)
    if args.adapter:
        args.adapter = require_adapter(args.adapter)
    require_model(args.model)
    from tqdm import tqdm

    from course_lib.alignment.sampled_pairs import SampleFile, SamplingPlan, make_pairs, read_problems, sample_all
    from course_lib.commands.generate import load_with_adapter
    from course_lib.data.parts import read_folder
    from course_lib.data.tokenizers import has_chat_template
    from course_lib.models.devices import choose_device
    from course_lib.models.pretrained import DEFAULT

    names = ("problems", "split", "limit", "samples", "temperature", "top_p", "max_new_tokens", "seed")
    plan = SamplingPlan(
        model=str(args.model or ("" if args.adapter else DEFAULT)),
        adapter=str(args.adapter or ""),
        template=args.template or "chat",
        **{name: getattr(args, name) for name in names},
    )
    if (folder := Path(args.problems).expanduser()).is_dir():
        print("\n".join(read_folder(folder).report()), flush=True)
    problems = read_problems(plan, args.format)
    model, tokenizer = load_with_adapter(args.model, args.adapter, choose_device(args.device))
    if args.template is None and not has_chat_template(tokenizer):
        plan = replace(plan, template="instruction")
    file = SampleFile(samples_path, plan)
    done = file.go_on(problems) if args.resume else []
    if not done:
        file.begin()
    print(f"{len(problems):,} problems, {plan.samples} answers to each in the {plan.template} template", flush=True)
    groups = sample_all(model, tokenizer, problems, plan, file, done, lambda each: tqdm(
        each, desc="sampling", unit="problem", initial=len(done), total=len(problems), leave=False, disable=None
    ))  # fmt: skip
    made = make_pairs(groups, [problem.source for problem in problems], args.pairs_per_problem, args.seed)
    print("\n".join(made.report()))
    if not made.rows:
        raise CourseError(
            f"No problem has both a right and a wrong answer, so there is no pair to write. The samples are in "
            f"{samples_path}. Take easier or harder problems, more --samples, or another --temperature."
        )
    made.write(args.output)
    print(f"{args.output}: course dpo --dataset {args.output}; all answers with their verdicts: {samples_path}")
    return 0


def _refuse_outputs(output: Path, samples: Path, resume: bool) -> None:
    """CourseError where a file would be written over, or has a name that no reader of records takes."""
    if output.suffix != ".jsonl":
        raise CourseError(f"--output {output} does not end with .jsonl: pairs are written as JSON Lines.")
    if output.exists():
        raise CourseError(f"{output} exists: choose another name, or remove it first.")
    if samples.exists() and not resume:
        raise CourseError(
            f"{samples} holds the samples of an earlier run: --resume continues it; or choose another --output."
        )
    if resume and not samples.exists():
        raise CourseError(
            f"There is nothing to resume: {samples} is not there.{similar_paths(samples)} Leave --resume out to begin."
        )


def run_check(args: argparse.Namespace) -> int:
    """Print the counts, the first problems and the first records."""
    from course_lib.data import read_records

    reading = read_records(
        args.source, args.format, malformed="skip", split=args.split, config=args.config, map=args.map
    )
    print(reading)
    for record in reading.records[: max(args.show, 0)]:
        print(f"\n{record.source}")
        for number, message in enumerate(record.messages):
            context = " (not trained)" if number in record.untrained else ""
            print(f"  {message['role']}{context}: {_shown(message['content'])}")
        if record.rejected is not None:
            print(f"  rejected: {_shown(record.rejected)}")
        if record.answer is not None:
            print(f"  answer to check: {record.answer}")
    return 1 if reading.problems else 0


def _shown(text: str) -> str:
    """A text, or of a very long one its beginning, its end and how long it is: it need not fill the terminal."""
    if len(text) <= MOST_SHOWN:
        return text
    half = MOST_SHOWN // 2
    return f"{text[:half]} … {text[-half:]} ({len(text):,} characters)"


def run_card(args: argparse.Namespace) -> int:
    """Print one card, or the names."""
    from course_lib.data.generators import cards

    known = cards()
    if args.name is None:
        print("\n".join(known))
    elif args.name in known:
        print(known[args.name])
    else:
        hint = did_you_mean(args.name, known)
        raise CourseError(f"There is no data set {args.name!r} in the package: choose from {', '.join(known)}.{hint}")
    return 0
