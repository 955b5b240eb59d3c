"""The decoder by itself: counts, masks, the cache, sinks, checkpointing, and the errors a user meets."""

import math
import re
from dataclasses import replace

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.inference import generate
from course_lib.models import config as config_module
from course_lib.models.attention import causal_mask, full_attention_mask, rope, rotate
from course_lib.models.config import CONFIGS, DecoderConfig, parameter_count
from course_lib.models.decoder import Decoder

LLAMA = DecoderConfig("llama", 97, 32, 2, 4, 64, intermediate_size=48, num_key_value_heads=2)
SINKS = replace(LLAMA, attention_sinks=True, tie_word_embeddings=False)
GPT2 = DecoderConfig("gpt2", 97, 32, 2, 4, 64)
FAMILIES = pytest.mark.parametrize("config", [GPT2, LLAMA, SINKS], ids=["gpt2", "llama", "sinks"])

PUBLISHED = {
    "gpt2": 124_439_808,
    "distilgpt2": 81_912_576,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
}


def build(config, **changes):
    """A decoder whose every parameter, the zeros and ones too, has a random part: nothing can hide in a zero."""
    torch.manual_seed(0)
    model = Decoder(replace(config, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tokens(*shape):
    return torch.randint(0, 97, shape, generator=torch.Generator().manual_seed(1))


# --- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_is_the_real_one(name, tied):
    config = replace(CONFIGS[name], tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Decoder(config)
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_count_is_the_published_one(name, count):
    assert parameter_count(CONFIGS[name]) == count


@pytest.mark.parametrize("config", [SINKS, replace(LLAMA, head_dim=12)], ids=["sinks", "head_dim"])
def test_parameter_count_of_the_rarer_shapes(config):
    assert parameter_count(config) == sum(p.numel() for p in Decoder(config).parameters())


def test_sizes_in_the_docs_are_the_counted_ones():
    rows = re.findall(r"^(modern-\S+) .* ([\d,]+)$", config_module.__doc__, flags=re.MULTILINE)
    written = {name: int(count.replace(",", "")) for name, count in rows}
    assert written == {name: parameter_count(c) for name, c in CONFIGS.items() if name.startswith("modern")}
    for name, count in written.items():
        size = name.removeprefix("modern-")
        named = int(size[:-1]) * {"m": 1e6, "k": 1e3}[size[-1]]
        assert abs(count / named - 1) < 0.06, name


def test_new_weights_have_the_stated_spread():
    """0.02, and 0.02 / sqrt(2 layers) where a layer writes to the residual stream; a new model is close to uniform."""
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("gpt2", 1000, 256, 8, 4, 64))
    block = model.model.layers[0]
    assert block.self_attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert block.mlp.c_proj.bias.abs().max() == 0
    ids = torch.randint(0, 1000, (2, 32))
    assert model(ids, labels=ids).loss.item() == pytest.approx(math.log(1000), rel=0.02)


# --- attention -----------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("mask", ["none", "padding", "packed"])
def test_sdpa_equals_eager(config, mask):
    """Values and gradients, float32: 1e-5 is a few roundings of sums of 32 numbers near 1."""
    ids = tokens(3, 20)
    masks = {"none": None, "padding": torch.ones(3, 20).long(), "packed": torch.rand(3, 1, 20, 20) < 0.6}
    if mask == "padding":
        masks["padding"][0, :7] = 0
        masks["padding"][1, 15:] = 0
    results = []
    for attention in ("sdpa", "eager"):
        model = build(config, attention=attention)
        output = model(ids, attention_mask=masks[mask], labels=ids)
        output.loss.backward()
        results.append((output.logits.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (logits, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-4, msg=name)
        assert gradient.abs().max() > 0, name


@FAMILIES
def test_nobody_sees_the_future(config):
    model, ids = build(config), tokens(1, 16)
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 97
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :9], after[:, :9], atol=0, rtol=0)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


@FAMILIES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(config, attention):
    """A row on its own, and the same row with padding before or behind it, at its true positions."""
    model, ids = build(config, attention=attention), tokens(1, 11)
    alone = model(ids).logits
    padded, mask = torch.full((2, 16), 5), torch.zeros(2, 16).long()
    padded[0, 5:], mask[0, 5:] = ids, 1
    padded[1, :11], mask[1, :11] = ids, 1
    logits = model(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, 5:], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1, :11], alone[0], atol=1e-5, rtol=1e-5)


@FAMILIES
def test_packed_documents_do_not_see_each_other(config):
    model, first, second = build(config), tokens(1, 9), tokens(1, 7).flip(1)
    document = torch.tensor([0] * 9 + [1] * 7)
    mask = (document[:, None] == document)[None, None]
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    packed = model(torch.cat([first, second], dim=1), attention_mask=mask, position_ids=positions).logits
    alone = torch.cat([model(first).logits, model(second).logits], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_sinks_take_attention_and_give_nothing():
    """Worked: at time 0 a token sees itself only, with score q.k / sqrt(d); a sink of logit s leaves it the share
    exp(score) / (exp(score) + exp(s)) of its value."""
    attention = build(SINKS).model.layers[0].self_attn
    x = torch.randn(1, 1, 32)
    with torch.no_grad():
        attention.sinks.copy_(torch.tensor([-1e9, 0.0, 1.0, 3.0]))
    q, k, v = (p(x).view(-1, 8) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    k, v = k.repeat_interleave(2, dim=0), v.repeat_interleave(2, dim=0)
    share = torch.sigmoid((q * k).sum(-1) / math.sqrt(8) - attention.sinks)
    assert share[0] == 1
    expected = attention.o_proj((share[:, None] * v).view(1, 1, 32))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_rope_turns_by_the_distance():
    """RoFormer's defining property: q at m and k at n have a product that depends on m - n alone, and keep lengths."""
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def turned(x, position):
        return rotate(x, *rope(torch.tensor([[position]]), 16, 10_000.0))

    products = [(turned(q, m) * turned(k, m - 5)).sum().item() for m in (5, 17, 60)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-5)  # the angles are float32
    assert turned(q, 33).norm().item() == pytest.approx(q.norm().item(), rel=1e-6)
    assert turned(q, 0).equal(q)
    cos, sin = rope(torch.tensor([[3]]), 4, 100.0)  # worked: angles 3 and 3 * 100 ** -0.5
    assert cos.flatten().tolist() == pytest.approx([math.cos(3), math.cos(0.3)] * 2)
    assert sin.flatten().tolist() == pytest.approx([math.sin(3), math.sin(0.3)] * 2)


def test_masks_worked():
    assert full_attention_mask(None, 2, 3, 0, "cpu") is None
    assert causal_mask(2, 1, "cpu")[0, 0].tolist() == [[True, True, False], [True, True, True]]
    seen = full_attention_mask(torch.tensor([[0, 1, 1]]), 1, 3, 0, "cpu")[0, 0].int().tolist()
    assert seen == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]  # the padded token sees itself, nobody sees it


# --- the cache, generation, training -------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cache_gives_the_same_logits_in_pieces(config, attention):
    model, ids = build(config, attention=attention), tokens(2, 20)
    whole, cache, pieces = model(ids).logits, None, []
    for piece in ids.split([7, 1, 5, 1, 6], dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    assert cache.get_seq_length() == 20
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@FAMILIES
def test_generate_with_unequal_prompts(config):
    model, prompts = build(config), [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]
    together = generate(model, prompts, 12)
    assert together == [generate(model, [prompt], 12)[0] for prompt in prompts]
    by_hand = torch.tensor([prompts[0]])
    for _ in range(12):  # without a cache: the whole text again for each token
        by_hand = torch.cat([by_hand, model(by_hand).logits[:, -1:].argmax(-1)], dim=1)
    assert together[0] == by_hand[0, 6:].tolist()


def test_transformers_cache_fits():
    from transformers import DynamicCache

    model, ids, cache = build(LLAMA), tokens(1, 9), DynamicCache()
    model(ids[:, :6], past_key_values=cache)
    logits = model(ids[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(ids).logits[:, 6:], atol=1e-5, rtol=1e-5)


@FAMILIES
def test_gradient_checkpointing_changes_no_gradient(config):
    gradients = []
    for on in (False, True):
        model = build(config, dropout=0.1).train()
        if on:
            model.gradient_checkpointing_enable()
        calls = []
        model.model.layers[0].mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(3)  # the dropout masks: checkpointing has to draw the same ones again
        model(tokens(2, 12), labels=tokens(2, 12)).loss.backward()
        assert len(calls) == (2 if on else 1)
        gradients.append([p.grad for p in model.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-7, rtol=1e-5)


def test_dropout_is_for_training_only():
    model, ids = build(LLAMA, dropout=0.2), tokens(1, 8)
    assert model(ids).logits.equal(model(ids).logits)
    model.train()
    assert not model(ids).logits.equal(model(ids).logits)


@FAMILIES
def test_loss_is_that_of_the_course(config):
    from course_lib.training.loss import next_token_loss

    model, ids = build(config), tokens(2, 10)
    labels = ids.clone()
    labels[:, :4] = -100
    output = model(ids, labels=labels)
    assert output.loss.equal(next_token_loss(output.logits, labels))
    assert model(ids).loss is None


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"attention": "flash"}, "'flash'.*'sdpa' or 'eager'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"num_attention_heads": 0}, "0 attention heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"head_dim": 7}, "head_dim is 7.*even"),
        ({"model_type": "gpt2"}, "gpt2 decoder.*2 with keys and values"),
    ],
)
def test_impossible_shapes_are_explained(change, message):
    with pytest.raises(CourseError, match=message):
        replace(LLAMA, **change)


def test_positions_run_out_in_one_sentence():
    model = build(GPT2)
    with pytest.raises(CourseError, match="65 tokens are more than this model's 64 learned positions"):
        model(tokens(1, 65))
    cache = model(tokens(1, 64), use_cache=True).past_key_values
    with pytest.raises(CourseError, match="65 tokens"):
        model(tokens(1, 1), past_key_values=cache)
    assert build(LLAMA)(tokens(1, 65)).logits.isfinite().all()  # RoPE has no table to run out of


@pytest.mark.parametrize("shape", [(2, 9), (1, 10), (2, 1, 10), (2, 4, 10, 10), (2, 1, 9, 10), (2, 1, 10, 10)])
def test_other_masks_are_refused(shape):
    """The last has the right shape and the wrong type: it could be one that is added to scores."""
    with pytest.raises(CourseError, match=r"should be of shape \(2, 10\), or boolean of shape \(2, 1, 10, 10\)"):
        build(LLAMA)(tokens(2, 10), attention_mask=torch.ones(shape))
