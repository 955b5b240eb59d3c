import numpy as np
import pytest
import torch

from course_lib.errors import CourseError
from course_lib.evaluation import evaluate, evaluate_loss, perplexity
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


def test_it_is_evaluated_without_dropout_and_the_mode_is_put_back(tiny_llama):
    """Dropout in training mode would draw: two evaluations would differ, and the Trainer's own draws would move."""
    from course_lib.adapters import inject_lora, lora_layers

    inject_lora(tiny_llama, ["q_proj"], rank=2, lora_dropout=0.5)
    for _, layer in lora_layers(tiny_llama):
        torch.nn.init.normal_(layer.B)
    blocks = np.random.default_rng(0).integers(0, 97, (5, 12))
    tiny_llama.eval()
    expected = next_token_loss(tiny_llama(torch.as_tensor(blocks)).logits, torch.as_tensor(blocks)).item()
    tiny_llama.train()
    state = torch.get_rng_state()
    assert evaluate_loss(tiny_llama, blocks) == pytest.approx(expected, rel=1e-6)
    assert tiny_llama.training
    assert all(module.training for module in tiny_llama.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_examples_count_by_their_targets(tiny_llama):
    """Two examples of unequal lengths: the mean over all targets, not the mean of two means."""
    examples = [
        {"input_ids": ids, "labels": labels}
        for ids, labels in [([5, 6, 7], [5, 6, 7]), ([9] * 8, [-100] * 4 + [9] * 4)]
    ]
    losses = []
    for example in examples:
        ids, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
        losses.append(next_token_loss(tiny_llama(ids).logits, labels).item())
    measured = evaluate(tiny_llama, examples, batch_size=2, accuracy=True)
    assert measured.loss == pytest.approx((2 * losses[0] + 4 * losses[1]) / 6, rel=1e-6)
    assert 0 <= measured.accuracy <= 1


def test_what_cannot_be_evaluated_is_said(tiny_llama):
    with pytest.raises(CourseError, match="held-out part is empty"):
        evaluate_loss(tiny_llama, np.empty((0, 8), dtype=int))
    with pytest.raises(CourseError, match="Token id 97 is not in this model's vocabulary of 97"):
        evaluate_loss(tiny_llama, np.full((1, 8), 97))
    with pytest.raises(CourseError, match="no held-out row has a target"):
        evaluate_loss(tiny_llama, [{"input_ids": [1, 2], "labels": [-100, -100]}])
