"""What a run minimises, as the Trainer asks for it: the next token's loss, or another one such as a preference loss."""

from typing import Protocol

import torch
from torch import nn

from course_lib.training.loss import count_targets, training_loss


class Objective(Protocol):
    """A loss that is a mean over things that can be counted, so that micro-batches of any sizes add up."""

    def count(self, batch: dict[str, torch.Tensor]) -> int:
        """How many things of a micro-batch the mean is over: targets, or pairs."""

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor], weight: float) -> torch.Tensor:
        """`weight` times the summed loss of a micro-batch, ready for `backward()`.

        Args:
            model: what the Trainer calls in its forward pass.
            batch: tensors on the model's device, "input_ids" and "labels" among them.
            weight: one over the things of the whole step (see `count`), times the number of processes.

        Returns:
            A scalar.
        """

    def report(self) -> dict[str, float]:
        """What else is known of the micro-batches since the last report. Raises CourseError where training must end."""


class NextToken:
    """The loss of every chapter: -log p of the next token, over the labels that are not IGNORE."""

    def count(self, batch: dict[str, torch.Tensor]) -> int:
        """The number of targets."""
        return count_targets(batch["labels"])

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor], weight: float) -> torch.Tensor:
        """Forward pass and loss: token ids (batch, time) -> logits (batch, time, vocabulary) -> a scalar.

        `training_loss` does both: it gets the logits and overwrites them by their gradient, or has our Decoder compute
        the loss without ever holding all of them.

        Args:
            model: maps the batch to an object with `.logits`.
            batch: "input_ids" and "labels", (batch, time) each, and the model's other arguments.
            weight: one over the targets of the whole step.

        Returns:
            A scalar.
        """
        return training_loss(model, batch, weight)

    def report(self) -> dict[str, float]:
        """Nothing but the loss."""
        return {}
