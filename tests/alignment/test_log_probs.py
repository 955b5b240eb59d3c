"""Log-probabilities of responses, against log_softmax of all logits."""

import copy

import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.alignment import log_probs
from course_lib.alignment.log_probs import sequence_log_probs
from course_lib.data import IGNORE
from course_lib.models.huggingface import load_decoder


def batch():
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (3, 12))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :5] = IGNORE
    labels[1, 9:], mask[1, 9:] = IGNORE, 0
    return ids, labels, mask


def plain(model, ids, labels, mask):
    """All logits, their log_softmax, and the labels picked out of it."""
    log_p = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)[:, :-1]
    targets = labels[:, 1:]
    found = log_p.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (found * (targets != IGNORE)).sum(1)


@pytest.fixture
def adapted(tiny_llama):
    torch.manual_seed(0)
    tiny_llama.requires_grad_(False)
    inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=4)
    for name, parameter in tiny_llama.named_parameters():
        if name.endswith(".B") or ".B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return tiny_llama


def gradients(model, function):
    model.zero_grad()
    # Weights that differ from row to row, as a preference loss has them.
    (function() * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_with_an_adapter_values_and_gradients_are_those_of_all_logits(adapted):
    ids, labels, mask = batch()
    ours = sequence_log_probs(adapted, ids, labels, attention_mask=mask)
    assert torch.allclose(ours, plain(adapted, ids, labels, mask), atol=1e-5)
    got = gradients(adapted, lambda: sequence_log_probs(adapted, ids, labels, attention_mask=mask))
    expected = gradients(adapted, lambda: plain(adapted, ids, labels, mask))
    assert got.keys() == expected.keys()
    assert len(got) == 8
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-4), name


def test_all_weights_trained_gives_the_same_gradients(tiny_llama):
    ids, labels, mask = batch()
    got = gradients(tiny_llama, lambda: sequence_log_probs(tiny_llama, ids, labels, attention_mask=mask))
    expected = gradients(tiny_llama, lambda: plain(tiny_llama, ids, labels, mask))
    assert got.keys() == expected.keys()
    assert len(got) > 10
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-4), name


def test_our_decoder_gives_the_same(tiny_llama, tmp_path):
    ids, labels, mask = batch()
    tiny_llama.save_pretrained(tmp_path)
    ours = load_decoder(tmp_path)
    with torch.no_grad():
        found = sequence_log_probs(ours, ids, labels, attention_mask=mask)
        assert torch.allclose(found, plain(tiny_llama, ids, labels, mask), atol=1e-4)


def test_without_gradients_a_piece_of_rows_at_a_time_gives_the_same(tiny_llama, monkeypatch):
    ids, labels, mask = batch()
    with torch.no_grad():
        whole = sequence_log_probs(tiny_llama, ids, labels, attention_mask=mask)
        monkeypatch.setattr("course_lib.models.fused_loss.BYTES_AT_ONCE", 97 * 4 * 2)
        assert torch.allclose(whole, sequence_log_probs(tiny_llama, ids, labels, attention_mask=mask), atol=1e-6)


def test_logits_exist_only_where_there_is_a_label(tiny_llama, monkeypatch):
    ids, labels, mask = batch()
    seen = []

    def spy(hidden, weight, targets):
        seen.append(tuple(hidden.shape))
        return original(hidden, weight, targets)

    original = log_probs.token_log_probs
    monkeypatch.setattr(log_probs, "token_log_probs", spy)
    sequence_log_probs(tiny_llama, ids, labels, attention_mask=mask)
    assert seen == [(7 + 4 + 7, 32)]


def test_a_model_that_changes_its_logits_afterwards_is_asked_for_them(tiny_llama):
    """Gemma 2 bounds its logits: the head's product alone would be wrong."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, head_dim=16)
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=97, num_key_value_heads=2, final_logit_softcapping=0.5, initializer_range=0.5, **shape)
    ).eval()
    ids, labels, mask = batch()
    with torch.no_grad():
        found = sequence_log_probs(model, ids, labels, attention_mask=mask)
        assert torch.allclose(found, plain(model, ids, labels, mask), atol=1e-4)
        # a head that carries an adapter is asked as a whole, too
        adapted = copy.deepcopy(tiny_llama)
        inject_lora(adapted, ["lm_head"], rank=2)
        torch.nn.init.normal_(next(p for name, p in adapted.named_parameters() if p.requires_grad and ".B" in name))
        found = sequence_log_probs(adapted, ids, labels, attention_mask=mask)
        assert torch.allclose(found, plain(adapted, ids, labels, mask), atol=1e-4)


def test_a_row_without_a_label_has_0(tiny_llama):
    ids, labels, mask = batch()
    labels[1] = IGNORE
    found = sequence_log_probs(tiny_llama, ids, labels, attention_mask=mask)
    assert found[1].item() == 0.0
    assert (found[[0, 2]] < -5).all()
