"""Our loss and schedule against transformers'."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from course_lib.training import next_token_loss, warmup_cosine


def test_loss_equals_transformers(tiny_llama):
    tokens = torch.randint(0, 97, (3, 17))
    labels = tokens.clone()
    labels[0, :9] = -100
    output = tiny_llama(input_ids=tokens, labels=labels)
    # the same float32 reduction
    torch.testing.assert_close(next_token_loss(output.logits, labels), output.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("warmup", [0, 7])
def test_schedule_with_zero_floor_equals_transformers(warmup):
    """transformers starts its warm-up at 0 and ours at 1/warmup, so that no step is wasted: the cosines agree."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, 50)
    for step in range(50):
        if step >= warmup:
            assert warmup_cosine(step, 50, warmup, floor=0.0) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
