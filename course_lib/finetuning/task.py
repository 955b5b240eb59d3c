"""What a run is for: its objective, its held-out number, and the words about them. This one: the next token."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from course_lib.evaluation import evaluate, perplexity
from course_lib.options import filled
from course_lib.training.distributed import World
from course_lib.training.objective import Objective

if TYPE_CHECKING:
    from course_lib.finetuning.plan import Plan


class Task:
    """Predicting the next token. A subclass trains something else with the same run, folder and checkpoints.

    Attributes:
        unit: what a loss is measured in, for the curve.
    """

    unit = "nats per token"

    def objective(self, model: nn.Module, plan: "Plan", folder: Path) -> Objective | None:
        """What the Trainer minimises; None: the loss of the next token.

        Args:
            model: with its adapter on, before the first step and before a checkpoint is loaded.
            plan: of the run.
            folder: of the run.

        Returns:
            The objective, or None.
        """
        return None

    def held_out_loss(self, model: nn.Module, plan: "Plan", world: World) -> float:
        """The loss on the rows that the plan holds out, which decides which checkpoint is the best.

        Args:
            model: with its adapter on.
            plan: has the rows.
            world: this process among several, which take turns at the batches.

        Returns:
            The loss, lower for a better model.
        """
        rows, size = plan.source.held_out, filled(plan.settings.eval_batch_size)
        return evaluate(model, rows, size, pad_token_id=plan.source.pad_id, world=world).loss

    def header(self, plan: "Plan") -> list[str]:
        """Lines about the task for the head of the plan."""
        return []

    def describe(self, loss: float) -> str:
        """A held-out loss in words."""
        return f"{loss:.4f}, perplexity {perplexity(loss):.2f}"

    def summary(self, before: float, after: float) -> dict[str, Any]:
        """What summary.json says of the held-out loss.

        Args:
            before: the loss before training.
            after: the loss after the last step.

        Returns:
            The entries by name.
        """
        return {
            "held_out_loss_before": before,
            "held_out_loss_after": after,
            "perplexity_before": perplexity(before),
            "perplexity_after": perplexity(after),
        }
