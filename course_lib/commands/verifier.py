"""`course verifier`: train one, score answers with it, and choose the best of several."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.commands import Subparsers, printable
from course_lib.errors import CourseError
from course_lib.files import refuse_filled
from course_lib.options import flag_of
from course_lib.suggestions import did_you_mean, similar_paths
from course_lib.vocabulary import other_names

if TYPE_CHECKING:
    from course_lib.data.judged import Judged
    from course_lib.models.verifier import Verifier

GENERATED = ("word_problems", "instructions")
# Repeated here, because the room that has them imports torch.
KINDS = ("encoder", "decoder")
HEADS = ("last", "tokens")
# The settings of a run with their defaults. A resumed run keeps those it was begun with.
DEFAULTS: dict[str, Any] = {
    "dataset": ["word_problems"], "limit": None, "author": None,
    "kind": "encoder", "model": None, "head": "last", "train_blocks": None, "hidden_size": 128, "num_hidden_layers": 2,
    "vocab_size": 1024, "encoder_dropout": 0.1, "seq_len": 256,
    "epochs": 6, "batch_size": 32, "lr": None, "lm_weight": 0.0, "weight_decay": 0.01, "seed": 0,
    "checkpoint_every": 100, "log_every": 20,
}  # fmt: skip
LEAST = {name: 1 for name in ("limit", "hidden_size", "num_hidden_layers", "seq_len", "epochs", "batch_size")}
LEAST |= {name: 0 for name in ("train_blocks", "encoder_dropout", "lm_weight", "weight_decay", "checkpoint_every")}
NEWER = {"head": "last", "lm_weight": 0.0}  # settings that older runs did not have, and what they did

TOP = """A verifier says how likely it is that an answer to a problem is right.

  course verifier train --dataset pairs.samples.jsonl --kind decoder --model runs/answers --output runs/verifier
  course verifier score runs/verifier --problem "What is 14 + 23?" --answer "14 + 23 = 37"
  course verifier rerank runs/verifier pairs.samples.jsonl --output best.jsonl"""

TRAIN = """Train a verifier on right and wrong answers, and judge it on problems that it has never seen.

  course verifier train --output runs/verifier                       generated word problems, a small encoder
  course verifier train --dataset example_model_solutions.jsonl --output runs/verifier
  course verifier train --dataset pairs.samples.jsonl --kind decoder --model runs/answers --output runs/verifier
  course verifier train --dataset word_problems pairs.samples.jsonl --output runs/verifier
  course verifier train --output runs/verifier --resume               go on after an interruption

--dataset: word_problems or instructions (generated, each with a right and a wrong answer), or files of judged
answers, in one of three layouts: {"problem", "answer", "correct"} with one answer in a row; {"problem", "answers",
"correct"} with several, as course data make-preferences keeps its samples; or {"question", "ground_truth"} and for
each model {"solution", "is_correct"}, as OpenAI publishes answers to GSM8K.

--kind: encoder, a small network of its own with new weights; decoder, --model with a scalar head in place of the
vocabulary's. The decoder that wrote the answers understands them best. --head last judges the answer at its last token;
--head tokens judges each token, beginning with the decoder's own confidence in it, and the worst token counts. There
the blocks learn from --lm-weight times the language model's loss on right answers, and not from the judgement.

Rows that say that they are held out, as in {"split": "test"}, are left out, and a line says how many there are.
Problems are shared out, never answers: 7 in 10 train, 1 in 10 chooses the best weights and the temperature, and 2 in
10 are for the numbers at the end. What is written: the verifier, run.json, log.jsonl, summary.json with AUC and
calibration, reliability.png, and checkpoints/ for --resume.

Defaults are in brackets."""

SCORE = """Print how likely it is that an answer is right, from 0 to 1.

  course verifier score runs/verifier --problem "What is 14 + 23?" --answer "14 + 23 = 37"
  course verifier score runs/verifier --input answers.jsonl --output scored.jsonl

--input is a file of judged answers, see course verifier train; AUC and calibration on it are printed too."""

RERANK = """Choose the best of several answers to each problem, and compare the ways of choosing: the first answer, the
majority, the verifier's best, the weighted vote, and pass@N, which no way of choosing exceeds.

  course verifier rerank runs/verifier pairs.samples.jsonl
  course verifier rerank runs/verifier pairs.samples.jsonl --count 4 --output best.jsonl

The file has {"problem", "answers", "correct"} in each row, as course data make-preferences keeps its samples;
"correct" may be absent, and then the chosen answers are written without the comparison."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course verifier` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "verifier",
        help="how likely an answer is right: train, score, rerank",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=TOP,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_train(actions)
    _add_score(actions)
    _add_rerank(actions)


def _action(actions: Subparsers, name: str, help: str, description: str, **more: Any) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=help, formatter_class=argparse.RawDescriptionHelpFormatter, description=description, **more
    )


def _add_train(actions: Subparsers) -> None:
    # What is not given is absent from the result: with --resume it is the run's own.
    absent = {"argument_default": argparse.SUPPRESS}
    train = _action(actions, "train", "train a verifier on right and wrong answers", TRAIN, **absent)
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder (needed)")
    train.add_argument(
        "--resume", action="store_true", default=False, help="go on with the run in --output, with its settings"
    )
    data = train.add_argument_group("data")
    data.add_argument("--dataset", nargs="+", metavar="SOURCE", help="see above")
    data.add_argument("--limit", type=int, metavar="N", help="problems of each generated set (its own number)")
    data.add_argument("--author", nargs="+", metavar="NAME", help="answers of these writers alone (all)")
    model = train.add_argument_group("model")
    model.add_argument("--kind", choices=KINDS, help="see above (encoder)")
    model.add_argument("--model", metavar="NAME", help="decoder: whose blocks it has (SmolLM2); encoder: no use")
    model.add_argument("--head", choices=HEADS, help="decoder: what judges, see above (last)")
    model.add_argument("--train-blocks", type=int, metavar="N", help="decoder: train the last N blocks (all)")
    model.add_argument("--hidden-size", type=int, metavar="N", help="encoder: its width (128)")
    model.add_argument("--num-hidden-layers", type=int, metavar="N", help="encoder: its blocks (2)")
    model.add_argument("--vocab-size", type=int, metavar="N", help="encoder: tokens it learns (1024)")
    model.add_argument("--encoder-dropout", type=float, metavar="X", help="encoder: in training (0.1)")
    model.add_argument("--seq-len", type=int, metavar="N", help="tokens of problem and answer (256)")
    steps = train.add_argument_group("training")
    steps.add_argument("--epochs", type=int, metavar="N", help="passes over the answers (6)")
    steps.add_argument("--batch-size", type=int, metavar="N", help="answers of a step (32)")
    steps.add_argument("--lr", type=float, metavar="X", help="peak learning rate (encoder 1e-3, decoder 1e-4)")
    steps.add_argument("--lm-weight", type=float, metavar="X", help="--head tokens: see above (0)")
    steps.add_argument("--weight-decay", type=float, metavar="X", help="AdamW's (0.01)")
    steps.add_argument("--seed", type=int, metavar="N", help="of weights, order and split (0)")
    steps.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between them (100)")
    steps.add_argument("--log-every", type=int, metavar="N", help="steps between printed lines (20)")
    train.epilog = other_names("verifier", train._option_string_actions)
    train.set_defaults(run=run_train)


def _add_score(actions: Subparsers) -> None:
    score = _action(actions, "score", "how likely an answer is right", SCORE)
    score.add_argument("verifier", type=Path, metavar="DIR", help="the folder of a verifier")
    score.add_argument("--problem", metavar="TEXT", help="what was asked")
    score.add_argument("--answer", metavar="TEXT", help="what was answered")
    score.add_argument("--input", type=Path, metavar="FILE", help="many judged answers instead")
    score.add_argument("--output", type=Path, metavar="FILE", help="with --input: write them there with their scores")
    score.set_defaults(run=run_score)


def _add_rerank(actions: Subparsers) -> None:
    rerank = _action(actions, "rerank", "choose the best of several answers", RERANK)
    rerank.add_argument("verifier", type=Path, metavar="DIR", help="the folder of a verifier")
    rerank.add_argument("samples", type=Path, metavar="FILE", help="several answers to each problem")
    rerank.add_argument("--count", type=int, metavar="N", help="choose among the first N (as many as all have)")
    rerank.add_argument("--output", type=Path, metavar="FILE", help="write the chosen answers there")
    rerank.set_defaults(run=run_rerank)


# --- train ---


def run_train(args: argparse.Namespace) -> int:
    """Train, and print how the verifier does on problems that it has never seen."""
    given = {name: value for name, value in vars(args).items() if name in DEFAULTS}
    settings = DEFAULTS | (_begun_with(args.output, given) if args.resume else {}) | given
    _check(settings)
    if args.resume:
        _refuse_finished(args.output)
    else:
        _refuse_another_run(args.output)

    from course_lib.alignment.verifier import split_by_problem
    from course_lib.alignment.verifier_run import Parts, read_answers, run_verifier

    answers = read_answers(settings["dataset"], settings["limit"], settings["author"], settings["seed"])
    parts = Parts(*split_by_problem(answers, seed=settings["seed"]))
    print(f"{len(answers):,} answers; problems to train on, to choose by and to judge by: {parts}", flush=True)
    evaluation = run_verifier(args.output, parts, settings, args.resume)
    print(f"on problems it has never seen: {evaluation}")
    print(f"{args.output}: course verifier score {args.output} --problem TEXT --answer TEXT")
    return 0


def _check(settings: dict[str, Any]) -> None:
    """CourseError where a setting is not possible, or does not go with another: before anything is written."""
    for source in settings["dataset"]:
        if source not in GENERATED and not Path(source).expanduser().is_file():
            raise CourseError(
                f"--dataset {source}: there is no such file, and no generated set of that name "
                f"({', '.join(GENERATED)}).{did_you_mean(source, GENERATED)}"
            )
    if settings["kind"] == "encoder" and (settings["model"] or settings["train_blocks"] is not None):
        raise CourseError("--model and --train-blocks are for --kind decoder: an encoder begins with new weights.")
    if settings["head"] == "tokens" and settings["kind"] == "encoder":
        raise CourseError("--head tokens is for --kind decoder: an encoder writes no tokens that could be compared.")
    if settings["lm_weight"] and settings["head"] != "tokens":
        raise CourseError(f"--lm-weight {settings['lm_weight']:g} is for --head tokens: leave it out, or give that.")
    for name, least in LEAST.items():
        value = settings[name]
        if value is not None and not least <= value < math.inf:
            raise CourseError(f"{flag_of(name)} {value} is not possible. It has to be at least {least}.")
    if settings["encoder_dropout"] >= 1:
        raise CourseError(f"--encoder-dropout {settings['encoder_dropout']:g} is not possible. It has to be below 1.")
    if settings["lr"] is not None and not 0 < settings["lr"] < math.inf:
        raise CourseError(f"--lr {settings['lr']:g} is not possible. It has to be above 0.")


def _refuse_another_run(folder: Path) -> None:
    """CourseError where a new run would begin in a folder that is in use."""
    if (folder / "run.json").is_file():
        raise CourseError(f"{folder} holds a run already: --resume continues it; or choose another --output.")
    refuse_filled(folder)


def _begun_with(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run in a folder; CourseError where it is another's, or a given setting differs from it."""
    try:
        begun = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        stage, before = begun.get("stage"), NEWER | dict(begun["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = similar_paths(folder) if not folder.exists() else ""
        raise CourseError(f"{folder} holds no run to resume.{hint} Leave --resume out to begin one there.") from error
    if stage != "verifier":
        raise CourseError(f"{folder} holds a run of course {stage}, and course verifier cannot continue it.")
    for name, value in given.items():
        if name != "log_every" and before.get(name) != value:
            raise CourseError(
                f"{folder} was begun with {flag_of(name)} {_as_given(before.get(name))}, not {_as_given(value)}: leave "
                f"{flag_of(name)} out, or choose another --output."
            )
    return {name: value for name, value in before.items() if name in DEFAULTS}


def _as_given(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse_finished(folder: Path) -> None:
    if (folder / "summary.json").is_file():
        raise CourseError(f"The run in {folder} is finished: its numbers are in {folder / 'summary.json'}.")


# --- score ---


def run_score(args: argparse.Namespace) -> int:
    """Print one score, or the numbers of a file."""
    alone = args.problem is not None and args.answer is not None
    if alone == (args.input is not None) or (args.output and not args.input):
        raise CourseError("Give --problem and --answer, or --input (and with it --output).")
    _refuse_output(args.output)
    verifier = _load(args.verifier)
    if alone:
        print(f"{verifier.score(args.problem, args.answer):.4f}")
        return 0
    from course_lib.alignment.verifier import evaluate_scores, pairs_of
    from course_lib.data.judged import read_judged

    answers = read_judged(args.input).answers
    scores = verifier.score_batch(pairs_of(answers))
    if args.output:
        _write_scored(args.output, answers, scores)
    if 0 < sum(each.correct for each in answers) < len(answers):
        import numpy as np

        print(evaluate_scores(np.array(scores), answers))
    else:
        print(f"{len(answers):,} answers, mean score {sum(scores) / len(scores):.3f}")
    return 0


def _write_scored(path: Path, answers: "list[Judged]", scores: list[float]) -> None:
    from course_lib.files import write_whole

    rows = [
        {"problem": each.problem, "answer": each.answer, "correct": each.correct, "author": each.author, "score": score}
        for each, score in zip(answers, scores, strict=True)
    ]
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# --- rerank ---


def run_rerank(args: argparse.Namespace) -> int:
    """Print the table of the ways of choosing, and write the chosen answers."""
    _refuse_output(args.output)
    if not args.samples.is_file():
        raise CourseError(f"There is no file {args.samples}.")
    verifier = _load(args.verifier)
    from course_lib.alignment.reranking import best_of, compare_selections, score_samples
    from course_lib.alignment.verifier_run import read_samples
    from course_lib.files import write_whole

    groups = read_samples(args.samples)
    fewest = min(len(each.answers) for each in groups)
    count = args.count or fewest
    if not 1 <= count <= fewest:
        raise CourseError(f"--count {count} is not possible: a problem of {args.samples} has {fewest} answers.")
    groups = [each.first(count) for each in groups]
    scores = score_samples(verifier, groups)
    print(f"{len(groups):,} problems, {count} answers to each")
    if all(each.correct for each in groups):
        for share in compare_selections(groups, scores):
            print(f"  {share.name:13} {share}")
    if args.output:
        rows = []
        for each, own in zip(groups, scores, strict=True):
            best = best_of(own)
            rows.append({"problem": each.problem, "answer": each.answers[best], "score": own[best]})
        write_whole(args.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"the chosen answers are in {args.output}")
    elif not all(each.correct for each in groups):
        for each, own in zip(groups, scores, strict=True):
            print(f"{own[best_of(own)]:.4f}  {printable(each.answers[best_of(own)])}")
    return 0


def _load(folder: Path) -> "Verifier":
    if not folder.exists():
        raise CourseError(f"There is no verifier {folder}: train one with course verifier train.")
    from course_lib.models.verifier import Verifier

    return Verifier.load(folder)


def _refuse_output(path: Path | None) -> None:
    if path is not None and path.exists():
        raise CourseError(f"{path} exists: choose another name, or remove it first.")
