"""What `foundations` and `datasets` are given, against the library's NumPy edition, which its checks compare with."""

import numpy as np
import pytest

from autograder.given import activated, attended, library_block, library_pair, normalised, prompt_and_response
from course_lib import scratch
from course_lib.scratch.bpe import learn_merges
from course_lib.scratch.gpt import Block


def draw(seed, *shape):
    """Normal random numbers."""
    return np.random.default_rng(seed).normal(size=shape)


def test_the_norm_and_gelu_are_the_librarys():
    x, weight, bias = draw(0, 3, 4, 6), draw(1, 6), draw(2, 6)
    expected = scratch.layer_norm(*map(scratch.Tensor, (x, weight, bias)))
    np.testing.assert_allclose(normalised(x, weight, bias), expected.data, rtol=1e-12)
    np.testing.assert_allclose(activated(x), scratch.gelu(scratch.Tensor(x)).data, rtol=1e-12)


def test_attention_is_causal_and_stable():
    q, k, v = draw(3, 2, 5, 4) * 1000, draw(4, 2, 5, 4), draw(5, 2, 5, 3)
    scores = q @ k.swapaxes(-1, -2) / 2 + np.triu(np.full((5, 5), -np.inf), k=1)
    weights = scratch.softmax(scratch.Tensor(scores)).data
    np.testing.assert_allclose(attended(q, k, v), weights @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_the_block_is_the_librarys(num_heads):
    layer = Block(8, num_heads, 0.0, rng=np.random.default_rng(0), dtype=float)
    w = {name: draw([6, i], *tensor.shape) for i, (name, tensor) in enumerate(layer.named_parameters())}
    layer.load_state_dict(w)
    x = draw(7, 2, 5, 8)
    np.testing.assert_allclose(library_block(x, w, num_heads), layer(scratch.Tensor(x)).data, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_pair_is_the_librarys(seed):
    rng = np.random.default_rng(seed)
    words = {bytes(rng.integers(97, 100, size=rng.integers(1, 5)).tolist()): int(rng.integers(1, 3)) for _ in range(6)}
    expected = learn_merges(dict(words), 1)
    assert library_pair({tuple(word): often for word, often in words.items()}) == (expected[0] if expected else None)


def test_there_is_no_pair_among_no_words():
    assert library_pair({}) is None
    assert library_pair({(1,): 9, (1, 2): 1}) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_formatted_record_is_the_librarys(seed):
    lines = ["### Input:", "\\### Response:", "### Response: ", "", "a", " ### Input:", "### Instruction:\u2028"]
    rng = np.random.default_rng(seed)
    texts = ["\n".join(rng.choice(lines, size=count).tolist()) for count in rng.integers(0, 4, size=3)]
    prompt, response = prompt_and_response(dict(zip(("instruction", "input", "output"), texts, strict=True)))
    formatter = scratch.InstructionFormatter()
    assert prompt == formatter.format(texts[0], texts[1], "")
    assert prompt + response == formatter.format(*texts)
