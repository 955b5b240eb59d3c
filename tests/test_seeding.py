"""One seed for all generators."""

import random

import numpy as np
import pytest
import torch

from course_lib.seeding import seed_everything


@pytest.mark.parametrize("seed", [0, 3, 2**40, -1])
def test_torch_draws_what_it_draws_after_its_own_seed(seed):
    torch.manual_seed(seed)
    expected = torch.randn(5)
    seed_everything(seed)
    assert torch.equal(torch.randn(5), expected)


def test_python_and_numpy_draw_the_same_again():
    def draws():
        return random.random(), np.random.rand()

    seed_everything(7)
    first = draws()
    assert draws() != first
    seed_everything(7)
    assert draws() == first
