"""The parts with gradients written by hand: equal to their plain forms, and to finite differences."""

import copy

import pytest
import torch
from torch import nn

from course_lib.adapters import inject_lora, lora_layers
from course_lib.data import pack
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.fused import plain_operations, project, project_plain, swiglu_mlp, swiglu_mlp_plain
from course_lib.models.fused_attention import rotate_and_attend
from course_lib.training import Trainer, TrainingConfig
from course_lib.training.loss import training_loss

WHY = "float64: the same sums in another order"


def llama(tied=True, **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"max_position_embeddings": 64, "num_key_value_heads": 2, "intermediate_size": 48}
    return Decoder(DecoderConfig("llama", **shape, tie_word_embeddings=tied, **changes)).double().train()


def with_lora(model):
    inject_lora(model, ["q_proj", "v_proj", "down_proj"], rank=3)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.B, std=0.1)
    return model.double()


def gradients(model, batch, plain, weight=0.1):
    """The loss, and every gradient by name."""
    model.zero_grad(set_to_none=True)
    tensors = {key: torch.as_tensor(value) for key, value in batch.items()}
    if plain:
        with plain_operations():
            loss = training_loss(model, tensors, weight)
            loss.backward()
    else:
        loss = training_loss(model, tensors, weight)
        loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found


def batch(kind):
    ids = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    if kind == "plain":
        return {"input_ids": ids, "labels": labels}
    if kind == "masked prompts":
        labels[:, :6] = -100
        return {"input_ids": ids, "labels": labels}
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    labels[1, 7:] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


MODELS = {"tied": llama, "untied": lambda: llama(tied=False), "lora": lambda: with_lora(llama())}


@pytest.mark.parametrize("kind", ["plain", "masked prompts", "padded"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_whole_step_is_that_of_autograd(make, kind, parity):
    model = make()
    fused, by_hand = gradients(model, batch(kind), plain=False)
    plain, by_autograd = gradients(model, batch(kind), plain=True)
    parity.close(f"loss with gradients by hand, {kind}", "autograd", fused, plain, 1e-10, WHY)
    assert by_hand.keys() == by_autograd.keys()
    for name, gradient in by_autograd.items():
        torch.testing.assert_close(by_hand[name], gradient, rtol=1e-7, atol=1e-10, msg=name)


def test_recomputed_activations_and_accumulation_give_the_same_gradients():
    model = llama()
    _, expected = gradients(model, batch("plain"), plain=True)
    model.gradient_checkpointing_enable()
    _, found = gradients(model, batch("plain"), plain=False)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
    model.gradient_checkpointing_disable()
    for _ in range(2):  # gradients add up over micro-batches
        training_loss(model, batch("plain"), 0.1).backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, 3 * gradient, rtol=1e-7, atol=1e-9)


def test_a_micro_batch_without_targets_has_no_gradient():
    model = llama()
    nothing = batch("plain")
    nothing["labels"] = torch.full_like(nothing["labels"], -100)
    loss, found = gradients(model, nothing, plain=False)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in found.values())


def test_packed_rows_train_as_in_the_plain_form():
    rng = torch.Generator().manual_seed(2)
    examples = [torch.randint(0, 61, (n,), generator=rng).tolist() for n in (5, 9, 4, 7)]
    packed = pack([{"input_ids": ids, "labels": ids} for ids in examples], 16, 0)
    runs = []
    for plain in (False, True):
        trainer = Trainer(llama(), TrainingConfig(lr=1e-2), log_every=0)
        if plain:
            with plain_operations():
                runs.append([record.loss for record in trainer.train([packed] * 4)])
        else:
            runs.append([record.loss for record in trainer.train([packed] * 4)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-9)


def test_dropout_and_hooks_take_the_plain_form():
    """Nothing is skipped: a hook is called, and LoRA's dropout draws."""
    model = llama()
    inject_lora(model, ["q_proj"], rank=2, lora_dropout=0.5)
    called = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: called.append(1))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    training_loss(model, batch("plain"), 0.1).backward()
    assert called
    assert not torch.equal(torch.get_rng_state(), state)


def test_bfloat16_is_within_its_own_precision():
    """Losses within 0.02 nats and gradients within 6 % of the float32 run's: bfloat16 has 8 bits."""
    model = llama().float()
    half = copy.deepcopy(model).bfloat16()
    exact_loss, exact = gradients(model, batch("plain"), plain=False, weight=1 / 30)
    loss, found = gradients(half, batch("plain"), plain=False, weight=1 / 30)
    assert loss.item() == pytest.approx(exact_loss.item(), abs=0.02)
    ours, theirs = (torch.cat([g.float().flatten() for g in each.values()]) for each in (found, exact))
    assert ((ours - theirs).norm() / theirs.norm()).item() < 0.06


def test_projections_by_finite_differences():
    torch.manual_seed(0)
    norm, layers = nn.RMSNorm(6, eps=1e-6), [nn.Linear(6, 4, bias=False), nn.Linear(6, 3, bias=False)]
    for module in (norm, *layers):
        module.double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: project(x, layers, norm), (x,))
    for fused, plain in zip(project(x, layers, norm), project_plain(x, layers, norm), strict=True):
        torch.testing.assert_close(fused, plain)


def test_swiglu_by_finite_differences():
    torch.manual_seed(0)
    gate, up, down = nn.Linear(5, 7, bias=False), nn.Linear(5, 7, bias=False), nn.Linear(7, 5, bias=False)
    for module in (gate, up, down):
        module.double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: swiglu_mlp(x, gate, up, down), (x,))
    torch.testing.assert_close(swiglu_mlp(x, gate, up, down), swiglu_mlp_plain(x, gate, up, down))


def test_attention_by_finite_differences():
    from course_lib.models.attention import rope

    torch.manual_seed(0)
    q = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)  # 2 heads of 4
    k, v = (torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))  # one head for both
    cos, sin = (table.double() for table in rope(torch.arange(5)[None], 4, 10_000.0))
    assert torch.autograd.gradcheck(lambda q, k, v: rotate_and_attend(q, k, v, cos, sin, None, 4), (q, k, v))
