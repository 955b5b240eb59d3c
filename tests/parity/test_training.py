"""Our loss and schedule against transformers'."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from course_lib.training import next_token_loss, summed_loss, summed_loss_, warmup_cosine

ROOM = "training"


def test_loss_equals_transformers(tiny_llama, parity):
    tokens = torch.randint(0, 97, (3, 17))
    labels = tokens.clone()
    labels[0, :9] = -100
    output = tiny_llama(input_ids=tokens, labels=labels)
    ours, theirs = next_token_loss(output.logits, labels).item(), output.loss.item()
    parity.close("next-token loss with masked labels", "transformers", ours, theirs, 1e-6, "float32: one reduction")


@pytest.mark.parametrize(("weight", "scale"), [(1.0, 1.0), (0.125, 1.0), (0.125, 1024.0)])
def test_the_loss_in_place_equals_torchs(parity, weight, scale):
    """Value and gradient, with large logits, rows without a target, and the scaled loss of float16 training."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 17, 8, generator=generator, requires_grad=True)
    head = 30 * torch.randn(97, 8, generator=generator)
    labels = torch.randint(0, 97, (3, 17), generator=generator)
    labels[0, :9], labels[2] = -100, -100

    def run(loss):
        value = loss(hidden @ head.T)
        (gradient,) = torch.autograd.grad(scale * value, hidden)
        return torch.cat([value.detach()[None], gradient.flatten()])

    ours = run(lambda logits: summed_loss_(logits, labels, weight))
    torchs = run(lambda logits: weight * summed_loss(logits, labels))
    why = "float32: the same sums in another order"
    parity.close(f"loss in place, weight {weight}, scale {scale:g}", "torch cross_entropy", ours, torchs, 1e-5, why)
    assert not ours[1:].view(3, 17, 8)[2].any()  # nothing is learnt from a row without targets


@pytest.mark.parametrize("warmup", [0, 7])
def test_schedule_with_a_descent_to_zero_equals_transformers(warmup):
    """transformers starts its warm-up at 0 and ours at 1/warmup, so that no step is wasted: the cosines agree."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, 50)
    for step in range(50):
        if step >= warmup:
            assert warmup_cosine(step, 50, warmup, min_lr_ratio=0.0) == pytest.approx(
                schedule.get_last_lr()[0], abs=1e-12
            )
        optimizer.step()
        schedule.step()
