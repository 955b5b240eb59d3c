"""Train a verifier on right and wrong answers, and evaluate it on problems that it has never seen."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.alignment.correctness import Correctness
from course_lib.alignment.verifier_settings import RATES, VerifierSettings
from course_lib.data.batching import length_grouped
from course_lib.data.judged import Judged
from course_lib.errors import CourseError
from course_lib.evaluation.calibration import auc, brier_score, expected_calibration_error, mean_group_auc
from course_lib.models.verifier import Encoded, Verifier
from course_lib.models.verifier_networks import DecoderVerifier
from course_lib.seeding import seed_everything
from course_lib.training import CheckpointConfig, StepRecord, Trainer, TrainingConfig

WARMUP = 0.06  # of all steps
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class VerifierEvaluation:
    """The quality of a verifier on a set of answers.

    Attributes:
        answers: the number of answers.
        problems: the number of problems that they belong to.
        right: the share of right answers.
        loss: binary cross-entropy in nats; ln 2 for a verifier that always says one half.
        accuracy: the share of answers whose score is on the right side of one half.
        auc: the chance that a right answer has a higher score than a wrong one.
        within: the AUC among the answers to one problem, as a mean over problems; None if no problem has both kinds.
        mixed: the number of problems that have right and wrong answers.
        ece: the expected calibration error in ten bins.
        brier: the mean squared distance between score and outcome.
    """

    answers: int
    problems: int
    right: float
    loss: float
    accuracy: float
    auc: float
    within: float | None
    mixed: int
    ece: float
    brier: float

    def __str__(self) -> str:
        within = "–" if self.within is None else f"{self.within:.3f} ({self.mixed:,} problems with both)"
        return (
            f"{self.answers:,} answers to {self.problems:,} problems, {self.right:.1%} right: AUC {self.auc:.3f}, "
            f"within a problem {within}, ECE {self.ece:.3f}, accuracy {self.accuracy:.1%}, loss {self.loss:.4f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, for JSON."""
        return asdict(self)


def split_by_problem(
    answers: Sequence[Judged], shares: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0
) -> list[list[Judged]]:
    """Split answers so that all answers to one problem are in the same part.

    A hash of the problem's text decides, so the split depends neither on the order nor on the other problems.

    Args:
        answers: the answers in any order.
        shares: the share of the problems for each part; they add up to 1. The default is training, validation, test.
        seed: another seed gives other parts.

    Returns:
        A list of answers for each share.

    Raises:
        CourseError: the shares do not add up to 1.

    Example:
        >>> answers = [Judged(f"{n} + 1", answer, True) for n in range(50) for answer in ("a", "b")]
        >>> parts = split_by_problem(answers)
        >>> [len(part) % 2 for part in parts]  # both answers to a problem are in one part
        [0, 0, 0]
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise CourseError(f"The shares {tuple(shares)} are not parts of a whole: they have to add up to 1.")
    ends = np.cumsum(shares)
    parts: list[list[Judged]] = [[] for _ in shares]
    for each in answers:
        problem = " ".join(each.problem.split())
        number = int.from_bytes(sha256(f"{seed} {problem}".encode()).digest()[:8], "big") / 2**64
        parts[min(int(np.searchsorted(ends, number, side="right")), len(parts) - 1)].append(each)
    return parts


class _Batches(Sequence):
    """The batches of all epochs, each made when it is asked for; of equal length within a batch, in a new order."""

    def __init__(self, verifier: Verifier, answers: Sequence[Judged], epochs: int, batch_size: int, seed: int):
        if epochs < 1 or batch_size < 1:
            raise CourseError(f"epochs={epochs}, batch_size={batch_size}: both are at least 1.")
        self.verifier = verifier
        self.examples: list[Encoded] = [verifier.encode(each.problem, each.answer) for each in answers]
        self.labels = torch.tensor([int(each.correct) for each in answers])
        lengths = [len(each["input_ids"]) for each in self.examples]
        self.plan = [
            chosen
            for epoch in range(epochs)
            for chosen in length_grouped(lengths, batch_size, seed=seed * 1000 + epoch)
        ]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Any:
        chosen = [int(i) for i in self.plan[index]]
        return self.verifier.collate([self.examples[i] for i in chosen]) | {"labels": self.labels[chosen]}


def train_verifier(
    verifier: Verifier,
    answers: Sequence[Judged],
    validation: Sequence[Judged] = (),
    *,
    epochs: int = VerifierSettings.epochs,
    batch_size: int = VerifierSettings.batch_size,
    lr: float | None = VerifierSettings.lr,
    weight_decay: float = VerifierSettings.weight_decay,
    lm_weight: float = VerifierSettings.lm_weight,
    config: TrainingConfig | None = None,
    eval_every: int = 0,
    seed: int = 0,
    checkpoints: CheckpointConfig | None = None,
    resume: bool = False,
    log_every: int = 0,
    log_path: Path | str | None = None,
) -> list[StepRecord]:
    """Train the network of a verifier in place. With validation answers, it ends with its best weights.

    Args:
        verifier: from `Verifier.encoder` or `Verifier.from_decoder`; weights without gradients are not changed.
        answers: right and wrong answers.
        validation: answers to other problems, which decide when the network was best.
        epochs: the number of passes over the answers.
        batch_size: the number of answers in a step.
        lr: the peak learning rate; None for the one in `RATES`: 1e-3 for a new encoder, 1e-4 for a trained decoder.
        weight_decay: the weight decay of AdamW.
        lm_weight: the weight of the language model's loss on right answers, see `TokenVerifier`.
        config: all settings of the steps, which replace lr and weight_decay.
        eval_every: how many steps lie between evaluations; 0 for one after every pass.
        seed: the seed of order and dropout.
        checkpoints: where and how often to save; None for never.
        resume: whether to continue from the newest checkpoint.
        log_every: how many steps lie between printed lines; 0 for none.
        log_path: a JSONL file for the record of every step.

    Returns:
        The record of each step.

    Raises:
        CourseError: there are no right or no wrong answers, a text is empty, or a number is out of its range.
    """
    check_trainable(answers, validation)
    batches = _Batches(verifier, answers, epochs, batch_size, seed)
    best = _Best(verifier, validation)
    seed_everything(seed)  # dropout
    trainer = Trainer(
        verifier.network,
        config or _usual_config(RATES[verifier.config.kind] if lr is None else lr, weight_decay, len(batches)),
        evaluate=best.evaluate if validation else None,
        eval_every=eval_every or len(batches) // epochs,
        checkpoints=checkpoints,
        log_every=log_every,
        log_path=log_path,
        objective=Correctness(lm_weight),
    )
    records = trainer.train(batches, resume)
    best.restore(Path(checkpoints.folder) if checkpoints else None)
    return records


def _usual_config(lr: float, weight_decay: float, steps: int) -> TrainingConfig:
    """A cosine after a short warm-up."""
    return TrainingConfig(lr=lr, weight_decay=weight_decay, warmup_steps=max(1, int(WARMUP * steps)))


class _Best:
    """The weights with the lowest validation loss so far."""

    def __init__(self, verifier: Verifier, validation: Sequence[Judged]):
        self.verifier, self.validation = verifier, validation
        self.loss = float("inf")
        self.weights: dict[str, Tensor] = {}

    def evaluate(self, network: nn.Module) -> float:
        """The validation loss of the network, whose weights are kept where it is the lowest so far."""
        loss = validation_loss(self.verifier, self.validation)
        if loss < self.loss:
            trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
            self.loss = loss
            self.weights = {name: value.clone() for name, value in network.state_dict().items() if name in trained}
        return loss

    def restore(self, folder: Path | None) -> None:
        """Put them back: from the checkpoint `best` where there is one, for a run that was resumed has seen fewer."""
        saved = None if folder is None else folder / "best" / "weights.safetensors"
        weights = load_file(saved) if self.validation and saved is not None and saved.is_file() else self.weights
        if weights:
            self.verifier.network.load_state_dict(weights, strict=False)
        self.verifier.network.eval()


def check_trainable(answers: Sequence[Judged], validation: Sequence[Judged] = ()) -> None:
    """Refuse answers from which nothing can be learnt, and validation problems that are also trained on.

    Args:
        answers: the answers to train on.
        validation: the answers by which the best weights are chosen.

    Raises:
        CourseError: all answers are right, all are wrong, or a problem is in both parts.
    """
    right = sum(each.correct for each in answers)
    if not 0 < right < len(answers):
        raise CourseError(
            f"A verifier learns from right and wrong answers, and here are {right:,} right and "
            f"{len(answers) - right:,} wrong: sample more answers, or from a model that is sometimes right."
        )
    shared = {each.problem for each in answers} & {each.problem for each in validation}
    if shared:
        raise CourseError(
            f"{len(shared):,} problems are in training and validation, such as {min(shared)[:60]!r}: split by problem."
        )


def pairs_of(answers: Sequence[Judged]) -> list[tuple[str, str]]:
    """The (problem, answer) texts, as `Verifier.score_batch` takes them."""
    return [(each.problem, each.answer) for each in answers]


def validation_loss(verifier: Verifier, answers: Sequence[Judged], batch_size: int = 64) -> float:
    """Binary cross-entropy without the temperature.

    Args:
        verifier: the verifier.
        answers: at least one answer.
        batch_size: how many answers one forward pass takes.

    Returns:
        The mean over answers, in nats.
    """
    logits = verifier.logits(pairs_of(answers), batch_size)
    right = torch.tensor([float(each.correct) for each in answers], dtype=torch.float64)
    return F.binary_cross_entropy_with_logits(logits, right).item()


def evaluate_verifier(verifier: Verifier, answers: Sequence[Judged], batch_size: int = 64) -> VerifierEvaluation:
    """Measure AUC, calibration and loss on answers to problems that the verifier was not trained on.

    Args:
        verifier: the verifier.
        answers: the answers, some of them right and some wrong.
        batch_size: how many answers one forward pass takes.

    Returns:
        The numbers.

    Raises:
        CourseError: there are no right or no wrong answers.
    """
    scores = np.array(verifier.score_batch(pairs_of(answers), batch_size))
    return evaluate_scores(scores, answers)


def evaluate_scores(scores: np.ndarray, answers: Sequence[Judged]) -> VerifierEvaluation:
    """Compute the numbers of `evaluate_verifier` from known scores.

    Args:
        scores: (answers,), from 0 to 1.
        answers: the answers that were scored.

    Returns:
        The numbers.

    Raises:
        CourseError: there are no right or no wrong answers.

    Example:
        >>> answers = [Judged("1 + 1", "2", True), Judged("1 + 1", "3", False), Judged("2 + 2", "4", True)]
        >>> evaluate_scores(np.array([0.9, 0.6, 0.4]), answers).auc  # one of two (right, wrong) pairs is in order
        0.5
    """
    right = np.array([each.correct for each in answers])
    problems = [each.problem for each in answers]
    within, mixed = mean_group_auc(scores, right, problems)
    likely = np.clip(np.where(right, scores, 1 - scores), 1e-12, 1)
    return VerifierEvaluation(
        answers=len(answers),
        problems=len(set(problems)),
        right=float(right.mean()),
        loss=float(-np.log(likely).mean()),
        accuracy=float(((scores > 0.5) == right).mean()),
        auc=auc(scores, right),
        within=within,
        mixed=mixed,
        ece=expected_calibration_error(scores, right),
        brier=brier_score(scores, right),
    )


def fit_temperature(logits: Tensor, right: Tensor) -> float:
    """Find the T that minimises the cross-entropy of sigmoid(logits / T) (Guo et al. 2017, arXiv:1706.04599, sec. 4.2).

    T does not change the order of the scores, and so neither AUC nor reranking. The loss is convex in 1 / T, so
    bisection on the sign of its derivative finds the minimum.

    Args:
        logits: (answers,), on problems that were not trained on.
        right: (answers,), 1 for right answers and 0 for wrong ones.

    Returns:
        T from 0.05 to 20; 1 if there are no right or no wrong answers.

    Example:
        >>> logits = torch.tensor([4.0, 4.0, 4.0, -4.0])  # sure of everything
        >>> fit_temperature(logits, torch.tensor([1.0, 1.0, 0.0, 0.0])) > 1  # and wrong once
        True
    """
    z, y = logits.double(), right.double()
    if not 0 < y.sum() < len(y):
        return 1.0
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    for _ in range(60):
        middle = (low + high) / 2
        slope = (z * (torch.sigmoid(middle * z) - y)).mean().item()  # of the loss, by 1 / T
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def calibrated(verifier: Verifier, answers: Sequence[Judged], batch_size: int = 64) -> Verifier:
    """Calibrate a verifier with the temperature that fits these answers best.

    Args:
        verifier: the verifier.
        answers: answers to problems that are used neither to train nor to judge it.
        batch_size: how many answers one forward pass takes.

    Returns:
        A verifier with the same network.
    """
    if not answers:
        return verifier
    logits = verifier.logits(pairs_of(answers), batch_size)
    right = torch.tensor([float(each.correct) for each in answers])
    return verifier.with_temperature(fit_temperature(logits, right))


def freeze_all_but_last(verifier: Verifier, blocks: int) -> None:
    """Freeze a decoder except for its head, its last norm and its last blocks.

    Args:
        verifier: a verifier from `Verifier.from_decoder`.
        blocks: how many blocks are trained; 0 for the head and the last norm alone.

    Raises:
        CourseError: the verifier is an encoder, or has fewer blocks.
    """
    network = verifier.network
    if not isinstance(network, DecoderVerifier):
        raise CourseError(
            "Only a verifier on a decoder with the head 'last' can keep blocks as they are: an encoder begins anew, "
            "and with the head 'tokens' the judgement changes none of them."
        )
    layers = network.model.layers
    if not 0 <= blocks <= len(layers):
        raise CourseError(
            f"{blocks} trained blocks are not possible: the decoder has {len(layers)}. Give a number up to that."
        )
    network.requires_grad_(False)
    for module in _trained(network, blocks):
        module.requires_grad_(True)


def _trained(network: DecoderVerifier, blocks: int) -> Iterator[nn.Module]:
    yield network.head
    yield network.model.norm
    yield from list(network.model.layers)[len(network.model.layers) - blocks :]
