"""The real SmolLM2 in float32: greedy tokens and logits of every cache against transformers' `generate`.

Tokens are equal, except from where the two best logits lie within 1e-4: there float32's rounding decides, and the texts
go on differently. Such places are counted, and each is checked to be one.
"""

import pytest
import torch

from course_lib.data.bundled import __path__ as bundled
from course_lib.inference import generate
from course_lib.inference.caches import make_cache

ROOM = "inference"
TIE = 1e-4
CACHES = ["none", "dynamic", "static", "paged"]
pytestmark = pytest.mark.weights


def prompts(tokenizer, number):
    """Pieces of the bundled text, of 3 to 60 words."""
    from pathlib import Path

    words = Path(next(iter(bundled)), "keepers_log.txt").read_text(encoding="utf-8").split()
    starts = [97 * i % (len(words) - 60) for i in range(number)]
    pieces = [" ".join(words[start : start + 3 + (13 * i) % 58]) for i, start in enumerate(starts)]
    return [tokenizer(piece)["input_ids"] for piece in pieces]


def transformers_alone(model, ids, new):
    given = torch.tensor([ids])
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    return model.generate(given, attention_mask=torch.ones_like(given), **options)[0, len(ids) :].tolist()


def transformers_batch(model, rows, new):
    width = max(map(len, rows))
    ids = torch.tensor([[2] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    return model.generate(ids, attention_mask=mask, **options)[:, width:].tolist()


def check(model, rows, ours, theirs, parity, what):
    """Count the rows that differ where it is no tie; print the ties."""
    wrong = 0
    for row, mine, other in zip(rows, ours, theirs, strict=True):
        assert len(mine) == len(other)
        if mine == other:
            continue
        place = next(at for at, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1])
        with torch.inference_mode():
            logits = model(torch.tensor([row + mine[:place]])).logits[0, -1]
        best = logits.topk(2)
        is_tie = {mine[place], other[place]} == set(best.indices.tolist()) and best.values[0] - best.values[1] <= TIE
        print(
            f"{what}: new token {place} is {mine[place]} or {other[place]}, gap {best.values[0] - best.values[1]:.1e}"
        )
        wrong += not is_tie
    parity.exact(what, "transformers generate", wrong)


@pytest.mark.parametrize("cache", CACHES)
def test_a_few_prompts(smollm2, parity, cache):
    model, tokenizer = smollm2
    rows = prompts(tokenizer, 3)
    ours = generate(model, rows, 16, cache=cache, eos_token_id=())
    theirs = [transformers_alone(model, row, 16) for row in rows]
    check(model, rows, ours, theirs, parity, f"SmolLM2, 3 prompts x 16 greedy tokens in a batch, {cache}")


@pytest.mark.parametrize("cache", ["dynamic", "static", "paged"])
@pytest.mark.parametrize("which", ["transformers' model", "our decoder"])
def test_logits(smollm2, parity, cache, which):
    model, tokenizer = smollm2
    ids = torch.tensor([prompts(tokenizer, 4)[3]])
    if which == "our decoder":
        from course_lib.models.huggingface import load_decoder
        from course_lib.models.pretrained import resolve

        ours = load_decoder(resolve("smollm2-135m-instruct"))
    else:
        ours = model
    with torch.inference_mode():
        whole = model(ids).logits
        kept, parts = make_cache(cache, ours, ids.shape[1]), []
        for start, stop in [(0, 8), *((at, at + 1) for at in range(8, ids.shape[1]))]:
            positions = torch.arange(start, stop)[None]
            mask, positions = kept.begin(None, positions)
            parts.append(ours(ids[:, start:stop], position_ids=positions, past_key_values=kept, use_cache=True).logits)
    difference = float((torch.cat(parts, dim=1) - whole).abs().max())
    why = "float32, sums in another order; logits reach 30"
    parity.within(f"logits token by token, {cache}, {which}", "transformers, one pass", difference, 1e-4, why, "nats")


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES)
def test_prompts_alone(smollm2, parity, cache):
    """Without padding. Three prompts of the fifty: one at a time, all of them would take a laptop half an hour."""
    model, tokenizer = smollm2
    rows = prompts(tokenizer, 50)[7::20]
    ours = [generate(model, [row], 32, cache=cache, eos_token_id=())[0] for row in rows]
    theirs = [transformers_alone(model, row, 32) for row in rows]
    check(model, rows, ours, theirs, parity, f"SmolLM2, 3 prompts alone x 32 greedy tokens, {cache}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_50_prompts_as_one_padded_batch(smollm2, parity):
    """The paged cache, which shares the least with transformers' own; then each prompt for itself.

    One pass over a prompt and what the batch added to it says what every step would choose for that prompt alone,
    without padding and without a cache.
    """
    model, tokenizer = smollm2
    rows = prompts(tokenizer, 50)
    ours, theirs = generate(model, rows, 128, cache="paged", eos_token_id=()), transformers_batch(model, rows, 128)
    check(model, rows, ours, theirs, parity, "SmolLM2, 50 prompts x 128 as one left-padded batch, paged")
    wrong = 0
    for row, new in zip(rows, theirs, strict=True):
        with torch.inference_mode():
            best = model(torch.tensor([row + new])).logits[0, len(row) - 1 : -1].topk(2)
        differs = best.indices[:, 0] != torch.tensor(new)
        wrong += int((differs & (best.values[:, 0] - best.values[:, 1] > TIE)).sum())
    parity.exact("SmolLM2, 50 prompts x 128 tokens, each the best of one pass", "transformers generate", wrong)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_16_prompts_as_one_padded_batch(smollm2, parity, cache):
    model, tokenizer = smollm2
    rows = prompts(tokenizer, 16)
    ours = generate(model, rows, 48, cache=cache, eos_token_id=())
    theirs = transformers_batch(model, rows, 48)
    check(model, rows, ours, theirs, parity, f"SmolLM2, 16 prompts x 48 as one left-padded batch, {cache}")
