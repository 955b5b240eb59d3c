"""Training the last blocks alone."""

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.training import Trainer, TrainingConfig
from course_lib.training.partial import train_last_blocks


def test_only_the_last_blocks_move(tiny_llama):
    before = {name: p.detach().clone() for name, p in tiny_llama.named_parameters()}
    train_last_blocks(tiny_llama, 1)
    Trainer(tiny_llama, TrainingConfig(lr=1e-2), log_every=0).train([torch.arange(20).view(2, 10)])
    moved = {name for name, p in tiny_llama.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".layers.1." in name}


def test_none_means_all_and_too_many_are_refused(tiny_llama):
    assert all(p.requires_grad for p in train_last_blocks(tiny_llama, 0).parameters())
    with pytest.raises(CourseError, match="The last 3 blocks cannot be trained: this model has 2"):
        train_last_blocks(tiny_llama, 3)
