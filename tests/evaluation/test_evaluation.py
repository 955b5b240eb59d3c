import math

import numpy as np
import pytest
import torch

from course_lib.errors import CourseError
from course_lib.evaluation import compare_losses, evaluate_loss, perplexity
from course_lib.training import next_token_loss


def test_uniform_model_has_the_vocabulary_as_perplexity(tiny_llama):
    with torch.no_grad():
        tiny_llama.lm_head.weight.zero_()
    loss = evaluate_loss(tiny_llama, np.arange(40).reshape(4, 10))
    assert perplexity(loss) == pytest.approx(97, rel=1e-6)


def test_batching_does_not_change_the_loss(tiny_llama):
    blocks = np.random.default_rng(0).integers(0, 97, (5, 12))
    whole = next_token_loss(tiny_llama(torch.as_tensor(blocks)).logits, torch.as_tensor(blocks)).item()
    # 5 rows in batches of 2, 2 and 1: a mean of means would weigh the last row double
    assert evaluate_loss(tiny_llama, blocks, batch_size=2) == pytest.approx(whole, rel=1e-6)


def test_compare_losses_worked():
    parity = compare_losses([4.0, 3.0, 2.0], [4.0, 3.3, 1.9])
    assert parity.step == 1
    assert parity.absolute == pytest.approx(0.3)
    assert parity.relative == pytest.approx(0.3 / 3.3)
    assert math.isclose(compare_losses([1.0], [1.0]).absolute, 0.0)
    with pytest.raises(CourseError, match="3 and 2 steps"):
        compare_losses([1, 2, 3], [1, 2])
