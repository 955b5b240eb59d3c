"""`course evaluate`: what a decoder of our own can do, as the pipeline measures it."""

import argparse
import math
from pathlib import Path

from course_lib.commands import Subparsers, add_device, require_model
from course_lib.errors import CourseError
from course_lib.files import refuse_missing_path, write_json
from course_lib.options import flag_of

LEAST = {name: 1 for name in ("problems", "samples", "max_new_tokens", "batch_size", "window")}
LEAST |= {"long_tokens": 64, "sinks": 0, "threads": 0}  # a long text has two blocks at least

DESCRIPTION = """Evaluate a decoder of our own: exact match on held-out problems with its 95 % interval, best-of-N,
majority vote and pass@N, perplexity on held-out text, and a text beyond the window with attention sinks on and off.

  course evaluate --model runs/answers                           a model that course sft has trained in full
  course evaluate --model runs/answers --verifier runs/verifier  the verifier chooses among the samples, too
  course evaluate --model runs/base --problems 200 --samples 4 --output base_eval.json
  course evaluate --model runs/large --inference-ok inference_ok.json    does it load and answer here? nothing else

--perplexity-on: prose, stories, worked, sums, exercises, keepers_log, instructions, wikitext2,
tinystories, a text file, or a folder with wiki.test.raw. Perplexity by word compares models with other tokenizers.

Defaults are in brackets."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course evaluate` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "evaluate",
        help="exact match, best-of-N, perplexity and long text of a decoder of our own",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="the folder of a model that a stage has trained")
    parser.add_argument("--verifier", metavar="DIR", help="the folder of a verifier")
    parser.add_argument("--problems", type=int, default=1000, metavar="N", help="held-out problems (1000)")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="answers to each problem (8)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="temperature of the samples (1)")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="tokens of an answer (32)")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="answers at a time (256)")
    parser.add_argument(
        "--perplexity-on", nargs="+", default=["stories", "prose"], metavar="CORPUS", help="see above (stories prose)"
    )
    parser.add_argument("--long-tokens", type=int, default=2048, metavar="N", help="tokens of the long text (2048)")
    parser.add_argument("--sinks", type=int, default=4, metavar="N", help="first tokens that the cache keeps (4)")
    parser.add_argument("--window", type=int, default=124, metavar="N", help="last tokens that the cache keeps (124)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of problems and samples (0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads of torch; 0: torch decides (0)")
    add_device(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers and examples there, as JSON")
    parser.add_argument(
        "--inference-ok", type=Path, metavar="FILE", help="only load, generate and answer eight problems, and say so"
    )
    parser.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure, print a summary, and write the JSON file."""
    refuse_missing_path("--model", args.model)
    refuse_missing_path("--verifier", args.verifier or "")
    for name, least in LEAST.items():
        if getattr(args, name) < least:
            raise CourseError(f"{flag_of(name)} {getattr(args, name)} is not possible. Give at least {least}.")
    if not 0 < args.temperature < math.inf:
        raise CourseError(f"--temperature {args.temperature} draws no samples that differ. Give a number above 0.")
    require_model(args.model)
    import torch

    from course_lib.models.devices import choose_device

    device = choose_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    return _check(args, device) if args.inference_ok else _measure(args, device)


def _check(args: argparse.Namespace, device: str) -> int:
    """--inference-ok."""
    from course_lib.alignment.pipeline.inference_check import check_inference

    found = check_inference(Path(args.model), args.inference_ok, device, seed=args.seed)
    print(f"{args.model} loads in {found['load_seconds']:.2f} s and answers; {args.inference_ok} says so")
    return 0


def _measure(args: argparse.Namespace, device: str) -> int:
    from course_lib.alignment.pipeline.evaluating import Subject, evaluate_model
    from course_lib.alignment.pipeline.settings import Evaluation, Problems
    from course_lib.data.generators.pocket_problems import pocket_problems
    from course_lib.data.mixture import check_corpus
    from course_lib.models.huggingface import load_decoder
    from course_lib.models.pretrained import load_tokenizer
    from course_lib.models.verifier import Verifier

    for name in args.perplexity_on:
        check_corpus(name)
    verifier = Verifier.load(args.verifier, device) if args.verifier else None
    subject = Subject(Path(args.model).name, load_decoder(args.model, device=device), load_tokenizer(args.model))
    how = Evaluation(
        args.samples, args.temperature, args.batch_size, tuple(args.perplexity_on), long_tokens=args.long_tokens,
        sinks=args.sinks, window=args.window,
    )  # fmt: skip
    problems = Problems(max_new_tokens=args.max_new_tokens)
    items = pocket_problems("held_out", args.problems, args.seed)
    about = evaluate_model(subject, items, problems, how, verifier, args.seed)
    _print(about)
    if args.output:
        write_json(args.output, {key: value for key, value in about.items() if key != "judgements"})
        print(f"{args.output} has all numbers, and examples")
    return 0


def _print(about: dict) -> None:
    """The numbers in lines."""

    def share(value: dict) -> str:
        return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})"

    print(f"{about['model']}, {about['parameters']:,} parameters")
    print(f"exact match on {about['exact_match']['problems']:,} held-out problems: {share(about['exact_match'])}")
    if samples := about["samples"]:
        print(f"of {samples['count']} samples at temperature {samples['temperature']:g}:")
        for name in ("one", "majority", "verifier", "weighted_vote"):
            if samples[name]:
                print(f"  {name.replace('_', ' '):14} {share(samples[name])}")
        print("  " + ", ".join(f"pass@{k} {value:.1%}" for k, value in samples["pass_at"].items()))
    for name, text in about["perplexity"].items():
        print(f"perplexity on {name}: {text['perplexity']:.2f} by token, {text['word_perplexity']:.1f} by word")
    if long := about["long_context"]:
        print(
            f"a text of {long['tokens']:,} tokens: perplexity {long['on']:.2f} with {long['sinks']} sinks and a window "
            f"of {long['window']}, {long['off']:.2f} without sinks, {long['all']:.2f} with all tokens kept"
        )
