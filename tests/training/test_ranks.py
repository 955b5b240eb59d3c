"""Functions of a notebook in two processes that stay."""

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.training.ranks import Ranks

dist = None  # the functions below run elsewhere, where it is torch.distributed


def doubled(x):
    return 2 * x


def summed(x):
    x = doubled(x) * (dist.get_rank() + 1)
    dist.all_reduce(x)
    return dist.get_rank(), x


def half_fails():
    if dist.get_rank() == 1:
        raise ValueError("not me")
    dist.barrier()


@pytest.mark.slow
def test_every_rank_runs_the_function_and_a_failure_names_its_rank():
    with Ranks(2, timeout=30) as ranks:
        for size in (3, 5):  # the processes stay
            found = ranks.run(summed, torch.ones(size), uses=[doubled])
            assert [rank for rank, _ in found] == [0, 1]
            assert all(torch.equal(x, torch.full((size,), 6.0)) for _, x in found)
        with pytest.raises(CourseError, match=r"(?s)Rank 1 failed.*ValueError: not me") as caught:
            ranks.run(half_fails)
        assert "\n" in str(caught.value)
    assert all(process.poll() is not None for process in ranks._processes)  # none is left behind
