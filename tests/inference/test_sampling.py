import pytest
import torch

from course_lib.errors import CourseError
from course_lib.inference import generate, sample


def test_zero_temperature_is_the_argmax():
    assert sample(torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 1.0]]), temperature=0).tolist() == [1, 0]


def test_frequencies_are_the_softmax():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(20_000, 3)
    draws = sample(logits, generator=torch.Generator().manual_seed(0)).bincount(minlength=3) / 20_000
    # three standard errors of a frequency over 20,000 draws: 0.011
    torch.testing.assert_close(draws, torch.tensor([0.5, 0.3, 0.2]), atol=0.011, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).expand(2_000, 3)
    kept = sample(logits, top_p=0.6, generator=torch.Generator().manual_seed(0)).unique().tolist()
    assert kept == [1, 2]  # 0.5 falls short of 0.6, 0.5 + 0.3 reaches it
    assert sample(logits, top_p=0.5).unique().tolist() == [1]


def test_generation_stops_at_the_end_token_and_repeats_by_seed(tiny_llama):
    free = generate(tiny_llama, [[5, 6]], 10)[0]
    ended = generate(tiny_llama, [[5, 6]], 10, eos_token_id=free[3])[0]
    assert ended == free[: free.index(free[3])]
    runs = [generate(tiny_llama, [[5, 6]], 10, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_empty_prompts_are_refused(tiny_llama):
    for prompts in ([], [[]]):
        with pytest.raises(CourseError, match="at least one"):
            generate(tiny_llama, prompts, 3)
