"""One run of `course verifier train`: it reads answers, trains a new verifier, and writes a folder."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib.alignment.reranking import Samples
from course_lib.alignment.verifier import (
    VerifierEvaluation,
    calibrated,
    check_trainable,
    evaluate_scores,
    freeze_all_but_last,
    pairs_of,
    train_verifier,
)
from course_lib.alignment.verifier_settings import VerifierSettings
from course_lib.data.generators.judged import GENERATORS, judged_answers
from course_lib.data.judged import Judged, read_judged
from course_lib.data.rows import file_rows
from course_lib.errors import CourseError
from course_lib.evaluation.calibration import reliability_figure
from course_lib.files import write_json
from course_lib.finetuning.folder import RUN_FILE, SUMMARY
from course_lib.models.huggingface import load_decoder
from course_lib.models.pretrained import DEFAULT, load_tokenizer
from course_lib.models.verifier import Verifier
from course_lib.scratch import BPETokenizer
from course_lib.seeding import seed_everything
from course_lib.training import CheckpointConfig

MOST_LEARNT = 4000  # answers that the encoder's tokenizer learns its merges from


@dataclass(frozen=True)
class Parts:
    """Answers for three purposes. No problem is in two of the parts.

    Attributes:
        train: the answers to train on.
        validation: the answers that choose the best weights and the temperature.
        test: the answers for the final numbers.
    """

    train: list[Judged]
    validation: list[Judged]
    test: list[Judged]

    def __str__(self) -> str:
        parts = (self.train, self.validation, self.test)
        return ", ".join(f"{len({each.problem for each in part}):,}" for part in parts)


def read_answers(
    sources: Sequence[str], limit: int | None = None, authors: Sequence[str] | None = None, seed: int = 0
) -> list[Judged]:
    """Read the judged answers of generated sets and files.

    Args:
        sources: keys of `GENERATORS`, and files that `read_judged` reads.
        limit: how many problems each generated set has; None for its default.
        authors: the writers whose answers are used; None for all.
        seed: the seed of the generated sets.

    Returns:
        The answers.

    Raises:
        CourseError: a source cannot be read, all rows of it say that they are held out, or a writer has no answers.
    """
    answers: list[Judged] = []
    for source in sources:
        if source in GENERATORS and not Path(source).exists():
            answers += judged_answers(source, "train", limit, seed)
        else:
            answers += _not_held_out(source, read_judged(source).answers)
    known = sorted({each.author for each in answers if each.author})
    if missing := sorted(set(authors or ()) - set(known)):
        raise CourseError(f"--author {missing[0]}: nobody of that name wrote an answer. There are: {', '.join(known)}.")
    return [each for each in answers if authors is None or each.author in authors]


def _not_held_out(source: str, answers: list[Judged]) -> list[Judged]:
    """The answers without those whose rows say that they are for evaluation; a line tells how many are left out."""
    kept = [each for each in answers if each.part in ("", "train")]
    held_out = [each for each in answers if each.part not in ("", "train")]
    if not kept:
        raise CourseError(
            f"All answers of {source} say that they are held out, such as {held_out[0].source} "
            f'("{held_out[0].part}"): no verifier is trained on them. course verifier score --input judges them.'
        )
    if held_out:
        print(
            f"note: {len(held_out):,} answers of {source} say that they are held out and are left out, such as "
            f'{held_out[0].source} ("{held_out[0].part}")',
            file=sys.stderr,
            flush=True,
        )
    return kept


def read_samples(path: Path) -> list[Samples]:
    """Read several answers to each problem, as `course data make-preferences` writes them; "correct" is optional.

    Args:
        path: a .jsonl file.

    Returns:
        The samples of each problem.

    Raises:
        CourseError: a row is malformed, or the file has no rows.
    """
    found = []
    for where, row in file_rows(path):
        if isinstance(row, dict) and set(row) == {"settings"}:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("answers"), list) or not row["answers"]:
            raise CourseError(f"{where}: expected {{'problem', 'answers', 'correct'}} with a list of answers.")
        problem, answers, correct = row.get("problem"), row["answers"], row.get("correct") or []
        if not isinstance(problem, str) or not problem.strip() or not all(isinstance(each, str) for each in answers):
            raise CourseError(f"{where}: the problem is missing or empty, or an answer is not a text.")
        if correct and (len(correct) != len(answers) or not all(isinstance(each, bool) for each in correct)):
            raise CourseError(f"{where}: 'correct' is not one true or false for each of the {len(answers)} answers.")
        found.append(Samples(problem, tuple(answers), tuple(correct)))
    if not found:
        raise CourseError(
            f"{path} holds no problem with answers. Its lines have to be {{'problem', 'answers', 'correct'}}."
        )
    return found


def new_verifier(settings: VerifierSettings, answers: Sequence[Judged]) -> Verifier:
    """Make the verifier before training. The seed of the settings decides its weights and its tokenizer.

    Args:
        settings: the settings of `course verifier train`.
        answers: the answers to train on, from which the tokenizer of an encoder is learnt.

    Returns:
        The verifier.

    Raises:
        CourseError: the model cannot be loaded, or has fewer blocks than the settings ask for.
    """
    seed_everything(settings.seed)
    if settings.kind == "decoder":
        name = settings.model or DEFAULT
        verifier = Verifier.from_decoder(
            load_decoder(name), load_tokenizer(name), max_length=settings.seq_len, head=settings.head
        )
        if settings.train_blocks is not None:
            freeze_all_but_last(verifier, settings.train_blocks)
        return verifier
    text = "\n".join(f"{each.problem}\n{each.answer}" for each in answers[:MOST_LEARNT])
    try:
        tokenizer = BPETokenizer.train(text, settings.vocab_size)
    except ValueError as error:
        raise CourseError(f"--vocab-size {settings.vocab_size}: {error}") from error
    return Verifier.encoder(
        tokenizer,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_hidden_layers,
        dropout=settings.encoder_dropout,
        max_length=settings.seq_len,
    )


def run_verifier(folder: Path, parts: Parts, settings: VerifierSettings, resume: bool = False) -> VerifierEvaluation:
    """Train a verifier, choose its temperature, evaluate it, and write everything to a folder.

    Args:
        folder: the folder of the run.
        parts: the answers.
        settings: the settings of `course verifier train`.
        resume: whether to continue from the newest checkpoint in the folder.

    Returns:
        The numbers on the test part.

    Raises:
        CourseError: a part has no right or no wrong answers, or training fails.
    """
    if not (parts.train and parts.test):
        all_parts = (parts.train, parts.validation, parts.test)
        train, choose, judge = (len({each.problem for each in part}) for part in all_parts)
        raise CourseError(
            f"These are too few problems to share out: {train} to train on, {choose} to choose by and {judge} to judge "
            "by. Give answers to more problems, ten at least, or another --seed."
        )
    for answers in (parts.train, parts.test):
        check_trainable(answers)
    verifier = new_verifier(settings, parts.train)
    write_json(folder / RUN_FILE, {"stage": "verifier", "settings": asdict(settings)})  # only now can the run begin
    records = train_verifier(
        verifier,
        parts.train,
        parts.validation,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        lm_weight=settings.lm_weight,
        seed=settings.seed,
        checkpoints=CheckpointConfig(folder / "checkpoints", settings.checkpoint_every),
        resume=resume,
        log_every=settings.log_every,
        log_path=folder / "log.jsonl",
    )
    plain = evaluate_scores(_scores(verifier, parts.test), parts.test)
    verifier = calibrated(verifier, parts.validation)
    scores = _scores(verifier, parts.test)
    found = evaluate_scores(scores, parts.test)
    verifier.save(folder, overwrite=True)
    labels = [each.correct for each in parts.test]
    reliability_figure(scores, labels, title="answers to problems never seen").savefig(folder / "reliability.png")
    summary = {
        "held_out": found.to_dict(),
        "before_temperature": plain.to_dict(),
        "temperature": verifier.config.temperature,
        "steps": len(records),
        "seconds": sum(record.seconds for record in records),
        "parameters": sum(each.numel() for each in verifier.network.parameters()),
    }
    write_json(folder / SUMMARY, summary)
    return found


def _scores(verifier: Verifier, answers: Sequence[Judged]) -> Any:
    import numpy as np

    return np.array(verifier.score_batch(pairs_of(answers)))
