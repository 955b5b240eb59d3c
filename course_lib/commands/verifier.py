"""`course verifier`: train one, score answers with it, and choose the best of several."""

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.alignment.verifier_settings import VerifierSettings
from course_lib.commands import Subparsers, add_resume, printable
from course_lib.errors import CourseError
from course_lib.files import refuse_filled
from course_lib.finetuning.folder import RUN_FILE, SUMMARY
from course_lib.options import add_options, flag_of
from course_lib.suggestions import similar_paths

if TYPE_CHECKING:
    from course_lib.data.judged import Judged
    from course_lib.models.verifier import Verifier

NAMES = {each.name for each in fields(VerifierSettings)}
FREE = {each.name for each in fields(VerifierSettings) if each.metadata["free"]}

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


def _action(actions: Subparsers, name: str, help: str, description: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=help, formatter_class=argparse.RawDescriptionHelpFormatter, description=description
    )


def _add_train(actions: Subparsers) -> None:
    train = _action(actions, "train", "train a verifier on right and wrong answers", TRAIN)
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder (needed)")
    add_resume(train, "with the run in --output, with its settings")
    add_options(train, VerifierSettings)
    train.set_defaults(run=run_train)


def _add_score(actions: Subparsers) -> None:
    score = _action(actions, "score", "how likely an answer is right", SCORE)
    score.add_argument("verifier", type=Path, metavar="DIR", help="the folder of a verifier")
    score.add_argument("--problem", metavar="TEXT", help="the problem that was asked")
    score.add_argument("--answer", metavar="TEXT", help="the answer to judge")
    score.add_argument("--input", type=Path, metavar="FILE", help="a file of judged answers instead")
    score.add_argument("--output", type=Path, metavar="FILE", help="with --input: write the scored answers there")
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
    given = {name: _tupled(value) for name, value in vars(args).items() if name in NAMES}
    resume = bool(args.resume) and (args.resume != "auto" or (args.output / RUN_FILE).is_file())
    settings = VerifierSettings(**((_begun_with(args.output, given) if resume else {}) | given))
    settings.check()
    if not resume:
        _refuse_another_run(args.output)
    elif (args.output / SUMMARY).is_file():
        finished = f"The run in {args.output} is finished: its numbers are in {args.output / SUMMARY}."
        if args.resume != "auto":
            raise CourseError(finished)
        print(finished)
        return 0

    from course_lib.alignment.verifier import split_by_problem
    from course_lib.alignment.verifier_run import Parts, read_answers, run_verifier

    answers = read_answers(settings.dataset, settings.limit, settings.author, settings.seed)
    parts = Parts(*split_by_problem(answers, seed=settings.seed))
    print(f"{len(answers):,} answers; problems to train on, to choose by and to judge by: {parts}", flush=True)
    evaluation = run_verifier(args.output, parts, settings, resume)
    print(f"on problems it has never seen: {evaluation}")
    print(f"{args.output}: course verifier score {args.output} --problem TEXT --answer TEXT")
    return 0


def _tupled(value: Any) -> Any:
    """Lists as tuples: what argparse and JSON give is compared with what the settings hold."""
    return tuple(value) if isinstance(value, list) else value


def _refuse_another_run(folder: Path) -> None:
    """CourseError where a new run would begin in a folder that is in use."""
    if (folder / RUN_FILE).is_file():
        raise CourseError(f"{folder} holds a run already: --resume continues it; or choose another --output.")
    refuse_filled(folder)


def _begun_with(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run in a folder; CourseError where it is another's, or a given setting differs from it."""
    try:
        begun = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        kept = {name: _tupled(value) for name, value in begun["settings"].items()}
        stage, before = begun.get("stage"), asdict(VerifierSettings()) | kept  # an older run may lack a newer setting
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = similar_paths(folder) if not folder.exists() else ""
        raise CourseError(f"{folder} holds no run to resume.{hint} Leave --resume out to begin one there.") from error
    if stage != "verifier":
        raise CourseError(f"{folder} holds a run of course {stage}, and course verifier cannot continue it.")
    for name, value in given.items():
        if name not in FREE and before.get(name) != value:
            raise CourseError(
                f"{folder} was begun with {flag_of(name)} {_as_given(before.get(name))}, not {_as_given(value)}: leave "
                f"{flag_of(name)} out, or choose another --output."
            )
    return {name: value for name, value in before.items() if name in NAMES}


def _as_given(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
