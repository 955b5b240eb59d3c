"""Supervised fine-tuning: the loss where there is a label, and packed rows that do not see each other."""

import copy

import numpy as np
import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.alignment.sft import Supervised, collate_packed, packed_rows
from course_lib.data import IGNORE, pad
from course_lib.data.batching import block_diagonal
from course_lib.models.masks import mask_for
from course_lib.training import Trainer, TrainingConfig, training_loss


def examples(count=9, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = int(rng.integers(4, 15))
        ids = rng.integers(3, 97, size).tolist()
        found.append({"input_ids": ids, "labels": [IGNORE] * (size // 2) + ids[size // 2 :]})
    return found


def tensors(batch):
    return {key: torch.as_tensor(value) for key, value in batch.items()}


@pytest.mark.parametrize("adapted", [True, False])
def test_loss_and_gradients_are_those_of_all_logits(tiny_llama, adapted):
    if adapted:
        inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=4)
    batch, found = tensors(pad(examples(), 0)), []
    for loss in (training_loss, Supervised().loss):
        model = copy.deepcopy(tiny_llama)
        value = loss(model, batch, 0.125)
        value.backward()
        found.append((value.item(), [p.grad for p in model.parameters() if p.requires_grad]))
    (expected, gradients), (ours, our_gradients) = found
    assert ours == pytest.approx(expected, rel=1e-6)
    for our, expected in zip(our_gradients, gradients, strict=True):
        assert torch.allclose(our, expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_train_as_their_examples_do_alone(tiny_llama, attention):
    """A bool mask under "eager" attention would hide nothing, and no error would say so."""
    tiny_llama.set_attn_implementation(attention)
    for parameter in tiny_llama.parameters():
        parameter.data.mul_(4)  # so that attention counts
    some = examples()
    rows = packed_rows(some, 32, 0)
    assert len(rows) < len(some)
    losses = []
    for batch in (collate_packed(rows, np.arange(len(rows)), 0), pad(some, 0)):
        trainer = Trainer(tiny_llama, TrainingConfig(lr=1e-12), objective=Supervised(), log_every=0)
        losses.append(trainer.step(0, 1, [batch]).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_mask_for_eager_attention_is_numbers(tiny_llama):
    allowed = torch.as_tensor(block_diagonal(np.array([[0, 0, 1]])))
    assert mask_for(tiny_llama, allowed) is allowed
    tiny_llama.set_attn_implementation("eager")
    mask = mask_for(tiny_llama, allowed)
    assert mask.dtype == torch.float32
    assert ((mask == 0) == allowed).all()
    assert (mask[~allowed] < -1e30).all()


def test_packed_rows_hold_every_token_once():
    some = examples(40)
    rows = packed_rows(some, 24, 0)
    assert sum(len(row["input_ids"]) for row in rows) == sum(len(example["input_ids"]) for example in some)
    assert all(len(row["input_ids"]) <= 24 for row in rows)
    assert sum(len(row["input_ids"]) for row in rows) / (24 * len(rows)) > 0.9
