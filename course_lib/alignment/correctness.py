"""The loss of a verifier: binary cross-entropy, and optionally a language model's loss on right answers."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.data.masking import IGNORE


class Correctness:
    """Binary cross-entropy: the mean of -log p(right) over right answers and of -log p(wrong) over wrong ones.

    Args:
        lm_weight: the weight of the language model's loss, the mean -log p of a right answer's tokens, which a
            `TokenVerifier` has as well.
    """

    def __init__(self, lm_weight: float = 0.0) -> None:
        self.lm_weight = lm_weight
        self.seen: list[tuple[int, int]] = []  # (judged rightly, answers) of each micro-batch since the last report

    def count(self, batch: dict[str, Tensor]) -> int:
        """How many answers have a label."""
        return int((batch["labels"] != IGNORE).sum())

    def loss(self, model: nn.Module, batch: dict[str, Tensor], weight: float) -> Tensor:
        """`weight` times the summed loss.

        Args:
            model: a verifier's network.
            batch: of `Verifier.collate`, and "labels" (batch,): 1 right, 0 wrong.
            weight: one over the answers of the whole step.

        Returns:
            A scalar.
        """
        is_answer = batch["labels"] != IGNORE  # (B,): a process without a row of its own has none
        inputs = (batch["input_ids"], batch["attention_mask"], batch["part_ids"])
        network: Any = model
        logits, log_probs = network.judge_and_log_probs(*inputs) if self.lm_weight else (model(*inputs), None)
        logits = logits[is_answer]
        right = batch["labels"][is_answer].to(logits.dtype)
        self.seen.append((int(((logits > 0) == (right > 0)).sum()), len(right)))
        loss = F.binary_cross_entropy_with_logits(logits, right, reduction="sum")
        if log_probs is not None:
            loss = loss - self.lm_weight * (right * log_probs[is_answer]).sum()  # of right answers alone
        return weight * loss

    def report(self) -> dict[str, float]:
        """The accuracy since the last report: the share of answers whose score was on the right side of one half."""
        rightly, answers = (sum(column) for column in zip(*self.seen, strict=True)) if self.seen else (0, 0)
        self.seen = []
        return {"accuracy": rightly / answers} if answers else {}
