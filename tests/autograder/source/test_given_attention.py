"""What `kv_cache` is given, and its reference answers, against torch and transformers."""

import numpy as np
import pytest
import torch
from in_process import InProcess
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.generation import MinPLogitsWarper, TopPLogitsWarper
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from autograder.given import attention, rotate

HEADS = [(4, 4), (6, 2), (8, 1)]
CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=48,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
)


@pytest.fixture(scope="module")
def answers():
    """The names of the assignment with its reference answers executed."""
    return InProcess("kv_cache").names


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def theirs(q, k, v, mask):
    """torch's attention of arrays without a batch axis."""
    q, k, v = (torch.from_numpy(each)[None] for each in (q, k, v))
    masked = torch.from_numpy(mask)[None, None]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=masked, enable_gqa=True)[0].numpy()


def rotated_by_llama(x, positions):
    """transformers' rotary embedding of x (heads, n, head_dim), in float64 but for its angles."""
    x, positions = torch.from_numpy(x)[None], torch.as_tensor(positions)[None]
    cos, sin = LlamaRotaryEmbedding(CONFIG)(x, positions)
    return apply_rotary_pos_emb(x, x, cos, sin)[0][0].numpy()


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_attention_is_torchs(heads, kv_heads, answers):
    q, k, v = drawn(heads, 7, 8), drawn(kv_heads, 7, 8, seed=1), drawn(kv_heads, 7, 8, seed=2)
    mask = np.tri(7, dtype=bool)
    expected = theirs(q, k, v, mask)
    np.testing.assert_allclose(attention(q, k, v, mask), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(answers["attend_one"](q[:, -1], k, v), expected[:, -1], rtol=0, atol=1e-14)


def test_rotation_is_that_of_llama():
    x, positions = drawn(3, 5, 8), np.array([0, 1, 2, 70, 4000])
    # their angles are float32: at position 4000 they are off by 4000 * 6e-8
    np.testing.assert_allclose(rotate(x, positions), rotated_by_llama(x, positions), rtol=0, atol=1e-3)
    np.testing.assert_allclose(rotate(x[:, :3], positions[:3]), rotated_by_llama(x[:, :3], positions[:3]), atol=1e-6)


def test_rotation_depends_on_distances_alone():
    q, k = drawn(1, 1, 8), drawn(1, 1, 8, seed=1)
    products = [(rotate(q, np.array([p])) * rotate(k, np.array([p - 5]))).sum() for p in (5, 6, 900)]
    np.testing.assert_allclose(products, products[0], rtol=1e-11)


def test_bytes_are_those_of_a_real_cache(answers):
    model, cache = LlamaForCausalLM(CONFIG), DynamicCache(config=CONFIG)
    model(torch.zeros((1, 11), dtype=torch.long), past_key_values=cache, use_cache=True)
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    shape = {"layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 8}
    assert 11 * answers["bytes_per_token"](shape, bytes_per_number=4) == measured
    assert answers["cache_gib"](shape, [4, 7], bytes_per_number=4) == measured / 2**30


def test_a_padded_batch_continues_like_its_prompts(answers):
    """The logits of each prompt alone, those of a left-padded batch, and those of a decode step after it."""
    torch.manual_seed(0)
    model, prompts = LlamaForCausalLM(CONFIG).double().eval(), [[5, 0, 7, 8, 9], [0, 3]]
    ids, real = answers["pad_left"](prompts, 0)
    cache, following = DynamicCache(config=CONFIG), [4, 6]
    for new in (ids, np.array(following)[:, None]):
        width = new.shape[1]
        real = real if width > 1 else np.append(real, [[True], [True]], axis=1)
        positions, mask = answers["positions_and_mask"](real, width)
        batch = model(
            torch.from_numpy(new),
            attention_mask=torch.from_numpy(mask)[:, None],
            position_ids=torch.from_numpy(positions),
            past_key_values=cache,
        ).logits[:, -1]
        for row, prompt in enumerate(prompts):
            alone = prompt if width > 1 else [*prompt, following[row]]
            expected = model(torch.tensor([alone])).logits[0, -1]
            torch.testing.assert_close(batch[row], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.77, 0.95])
@pytest.mark.parametrize(("answer", "warper"), [("top_p_filter", TopPLogitsWarper), ("min_p_filter", MinPLogitsWarper)])
def test_filters_are_theirs_where_nothing_ties(answer, warper, share, answers):
    logits = torch.from_numpy(3 * drawn(200))
    probs = logits.softmax(dim=-1).numpy()
    expected = warper(share)(None, logits[None])[0].softmax(dim=-1).numpy()
    np.testing.assert_allclose(answers[answer](probs, share), expected, rtol=1e-12, atol=0)
