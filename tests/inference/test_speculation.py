"""Speculation: the same tokens, the same distribution, the published speed-ups."""

import itertools
import math

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.inference import generate, prepare
from course_lib.inference.sampling import SamplingSettings
from course_lib.inference.speculation import (
    DraftModel,
    Guess,
    PromptLookup,
    expected_operations,
    expected_speedup,
    expected_tokens,
    generate_speculatively,
)
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder


def decoder(seed, vocabulary=97, width=32):
    torch.manual_seed(seed)
    model = Decoder(DecoderConfig("llama", vocabulary, width, 2, 4, 256, 64, 2)).eval()
    for parameter in model.parameters():  # larger than at the start of training, so that texts vary
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return model


PROMPT = [5, 9, 31, 7, 5, 9, 31]


# --- the same tokens ---


@pytest.mark.parametrize("cache", ["dynamic", "static", "paged"])
@pytest.mark.parametrize("draft", [PromptLookup(), DraftModel(decoder(2)), DraftModel(decoder(1))])
def test_greedy_tokens_are_those_of_generate(draft, cache):
    model = decoder(1)
    for seed in range(3):
        prompt = torch.randint(0, 97, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
        prompt += prompt[:5]
        for new in (1, 2, 23):
            ours = generate_speculatively(model, prompt, new, draft, guesses=3, cache=cache, eos_token_id=())
            assert ours.tokens == generate(model, [prompt], new, eos_token_id=())[0]


def test_a_model_that_drafts_for_itself_is_always_right():
    model = decoder(1)
    done = generate_speculatively(model, PROMPT, 20, DraftModel(model), guesses=4, eos_token_id=())
    assert (done.acceptance, done.passes) == (1.0, 4)
    assert done.accepted_by_pass == [4, 4, 4, 4]


def test_ends_stops_and_penalties_are_those_of_generate():
    model = decoder(1)
    free = generate(model, [PROMPT], 20, eos_token_id=())[0]
    for options in (
        {"eos_token_id": free[7]},
        {"eos_token_id": (), "stop": [free[4:6]]},
        {"eos_token_id": (), "repetition_penalty": 1.4},
    ):
        for draft in (DraftModel(model), PromptLookup()):
            expected = generate(model, [PROMPT], 20, **options)[0]
            assert generate_speculatively(model, PROMPT, 20, draft, **options).tokens == expected


def test_transformers_and_prepared_models(tiny_llama):
    expected = generate(tiny_llama, [PROMPT], 16, eos_token_id=())[0]
    for model in (tiny_llama, prepare(tiny_llama)):
        done = generate_speculatively(model, PROMPT, 16, DraftModel(tiny_llama), eos_token_id=())
        assert (done.tokens, done.acceptance) == (expected, 1.0)


def test_prompt_lookup_copies_what_followed():
    settings, generator = SamplingSettings(), torch.Generator()

    def guess(tokens, **options):
        return PromptLookup(**options).guess(tokens, 3, settings, generator).tokens

    assert guess([1, 2, 3, 4, 5, 1, 2]) == [3, 4, 5]
    assert guess([1, 2, 9, 7, 2, 8, 1, 2]) == [9, 7, 2], "the longest match comes first"
    assert guess([4, 1, 4, 2, 4]) == [2, 4], "of equal ones, the last"
    assert guess([1, 2, 3]) == []
    assert guess([4, 1, 2, 4], shortest=2) == []


# --- the same distribution ---


def exact_distribution(model, prompt, length, settings):
    """The probability of every continuation, by going through all of them."""
    table = {}
    for continuation in itertools.product(range(model.config.vocab_size), repeat=length):
        probability = 1.0
        for place, token in enumerate(continuation):
            logits = model(torch.tensor([[*prompt, *continuation[:place]]])).logits[:, -1]
            probability *= float(settings.probabilities(logits)[0, token])
        table[continuation] = probability
    return table


class Stubborn:
    """A draft that guesses one token with certainty: mostly wrong, and the distribution must not mind."""

    def guess(self, tokens, count, settings, generator):
        return Guess([3] * count)


def chi_square(draws, table):
    """Pearson's statistic and its degrees of freedom; cells expected below 5 are joined."""
    total, statistic, cells, small = len(draws), 0.0, 0, [0.0, 0.0]
    counts = {key: 0 for key in table}
    for draw in draws:
        counts[draw] += 1
    for key, probability in table.items():
        expected = total * probability
        if expected < 5:
            small[0] += expected
            small[1] += counts[key]
            continue
        statistic += (counts[key] - expected) ** 2 / expected
        cells += 1
    if small[0] >= 1:
        statistic += (small[1] - small[0]) ** 2 / small[0]
        cells += 1
    else:
        assert small[1] <= 5, "what cannot be drawn was drawn"
    return statistic, cells - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draft", "options"),
    [
        (DraftModel(decoder(2, 4, 16)), {"temperature": 1.0}),
        (DraftModel(decoder(2, 4, 16)), {"temperature": 0.7, "top_k": 3}),
        (Stubborn(), {"temperature": 1.0}),
        (PromptLookup(), {"temperature": 1.3, "top_p": 0.9}),
    ],
)
@torch.inference_mode()
def test_samples_are_distributed_as_the_models(draft, options):
    """Three tokens of four words: 64 texts, 1,500 draws, against the exact probabilities."""
    model, prompt = decoder(1, 4, 16), [0, 1, 2, 0, 1]
    table = exact_distribution(model, prompt, 3, SamplingSettings(**options))
    assert math.isclose(sum(table.values()), 1, rel_tol=1e-5)
    draws = []
    for seed in range(1500):
        done = generate_speculatively(model, prompt, 3, draft, guesses=2, seed=seed, eos_token_id=(), **options)
        draws.append(tuple(done.tokens))
    statistic, freedom = chi_square(draws, table)
    # the 99.9th percentile of chi-square by Wilson and Hilferty's formula; the seeds are fixed, so it holds or not
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit, f"chi-square {statistic:.1f} on {freedom} degrees of freedom"


def test_the_test_would_notice_a_wrong_rule():
    """Samples of the draft itself, kept unseen, are far off."""
    model, prompt, settings = decoder(1, 4, 16), [0, 1, 2, 0, 1], SamplingSettings(1.0)
    with torch.inference_mode():
        table = exact_distribution(model, prompt, 3, settings)
        draws = [
            tuple(generate(decoder_2, [prompt], 3, temperature=1.0, seed=seed, eos_token_id=())[0])
            for decoder_2 in [decoder(2, 4, 16)]
            for seed in range(400)
        ]
    statistic, freedom = chi_square(draws, table)
    assert statistic > 3 * freedom


# --- the formula ---


@pytest.mark.parametrize(
    ("acceptance", "guesses", "operations", "speed"),
    [(0.6, 2, 1.53, 1.96), (0.7, 3, 1.58, 2.53), (0.8, 2, 1.23, 2.44), (0.8, 5, 1.63, 3.69), (0.9, 2, 1.11, 2.71),
     (0.9, 10, 1.60, 6.86)],
)  # fmt: skip
def test_the_published_rows(acceptance, guesses, operations, speed):
    """Table 1 of arXiv:2211.17192, a draft that costs nothing."""
    assert round(expected_speedup(acceptance, guesses), 2) == speed
    assert round(expected_operations(acceptance, guesses), 2) == operations


def test_expected_tokens_are_what_happens():
    """Guesses kept with probability 0.7 each: the mean of 20,000 passes is within three standard errors."""
    kept = (torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0)) < 0.7).long().cumprod(1).sum(1) + 1.0
    assert abs(kept.mean() - expected_tokens(0.7, 4)) < 3 * kept.std() / math.sqrt(20_000)
    assert expected_tokens(1, 4) == 5
    assert expected_speedup(0.0, 4, 0.25) == 0.5


def test_what_is_refused():
    model = decoder(1)
    with pytest.raises(CourseError, match="the cache 'sink' cannot"):
        generate_speculatively(model, PROMPT, 3, PromptLookup(), cache="sink")
    with pytest.raises(CourseError, match="at least one token"):
        generate_speculatively(model, [], 3, PromptLookup())
    with pytest.raises(CourseError, match="continues one prompt.*generate for a batch"):
        generate_speculatively(model, [[1, 2], [3, 4]], 3, PromptLookup())
    with pytest.raises(CourseError, match="Acceptance 1.5"):
        expected_speedup(1.5, 2)
    with pytest.raises(CourseError, match="1 <= shortest <= longest"):
        PromptLookup(1, 2)
