"""Losses over a long text: the plain ones while everything fits, and the published shape with sinks."""

import math
from pathlib import Path

import pytest
import torch

from course_lib.data.bundled import __path__ as bundled
from course_lib.errors import CourseError
from course_lib.inference import make_cache
from course_lib.inference.long_text import token_losses, token_losses_recomputed


@pytest.mark.parametrize("cache", ["dynamic", "static", "paged", "sink"])
def test_losses_are_those_of_one_pass_while_everything_fits(tiny_llama, cache):
    ids = torch.randint(3, 97, (50,), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(tiny_llama(ids[None]).logits[0, :-1], ids[1:], reduction="none")
    ours = token_losses(tiny_llama, ids.tolist(), make_cache(cache, tiny_llama, 64), block=7)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(token_losses_recomputed(tiny_llama, ids.tolist(), 64, 7), expected, atol=1e-5, rtol=0)


def test_a_recomputed_window_forgets(tiny_llama):
    ids = torch.randint(3, 97, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    ours = token_losses_recomputed(tiny_llama, ids, window=8, block=1)
    with torch.inference_mode():
        last = tiny_llama(torch.tensor([ids[21:29]])).logits[0, -1].log_softmax(-1)[ids[29]]
    assert math.isclose(ours[-1], -last, abs_tol=1e-5)


def test_what_is_refused(tiny_llama):
    with pytest.raises(CourseError, match="text of 1 tokens"):
        token_losses(tiny_llama, [1], make_cache("dynamic", tiny_llama, 4))
    with pytest.raises(CourseError, match="1 <= block <= window"):
        token_losses_recomputed(tiny_llama, [1, 2], 4, 5)


@pytest.mark.slow
@pytest.mark.weights
def test_four_sinks_keep_the_loss_that_a_window_without_them_loses(smollm2):
    """The shape of the paper's figure 3, on the real SmolLM2 with a window of 64 over 512 tokens.

    It does not explode here: the window without sinks costs 0.8 nats per token, a perplexity 2.2 times as high.
    """
    model, tokenizer = smollm2
    text = Path(next(iter(bundled)), "keepers_log.txt").read_text(encoding="utf-8")
    ids = tokenizer(text)["input_ids"][:512]
    losses = {}
    for sinks in (0, 4):
        cache = make_cache("sink", model, 0, sinks=sinks, window=64 - sinks)
        losses[sinks] = float(token_losses(model, ids, cache, block=16)[128:].mean())
    anew = float(token_losses_recomputed(model, ids, 64, 16)[128:].mean())
    print(f"nats per token after the first 128: none {losses[0]:.2f}, four {losses[4]:.2f}, recomputed {anew:.2f}")
    assert losses[4] < anew + 0.3
    assert losses[0] > losses[4] + 0.5


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("start", [0, 1000], ids=["the text's beginning", "its middle"])
def test_the_upper_layers_look_at_the_first_token_whatever_it_says(smollm2, start):
    """Why the first tokens count: in the layers from 12 on, 45 % of the attention of far tokens goes to the first one.

    In the first twelve it is 7 to 9 %. Where the text was cut makes no difference. Measured on 384 tokens.
    """
    model, tokenizer = smollm2
    text = Path(next(iter(bundled)), "keepers_log.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text)["input_ids"][start : start + 384]])
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the other kernels do not give their weights away
    try:
        with torch.inference_mode():
            layers = model(ids, output_attentions=True, use_cache=False).attentions  # (1, H, T, T) each
    finally:
        model.set_attn_implementation(before)
    shares = torch.stack([weights[0, :, 128:, 0].mean() for weights in layers])
    print(f"first token: {shares[:12].mean():.2f} in layers 0 to 11, {shares[12:].mean():.2f} from 12 on")
    assert shares[12:].mean() > 0.35
    assert shares[:12].mean() < 0.2
