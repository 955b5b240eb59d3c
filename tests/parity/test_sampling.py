"""Every sampling step against transformers' on the same logits, their order, and where ours differs on purpose."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_lib.errors import CourseError
from course_lib.inference import SamplingSettings, generate
from course_lib.inference.sampling import keep_min_p, keep_top_k, keep_top_p, mark_seen, penalise_repetition

ROOM = "inference"
PROMPTS = torch.randint(0, 500, (6, 30), generator=torch.Generator().manual_seed(1))
SEEN = mark_seen(PROMPTS.tolist(), 500)


def logits(scale=3.0, seed=0):
    return torch.randn(6, 500, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(
    ("what", "ours", "theirs"),
    [
        ("penalty 1.3", lambda x: penalise_repetition(x, SEEN, 1.3), RepetitionPenaltyLogitsProcessor(1.3)),
        ("penalty 0.7", lambda x: penalise_repetition(x, SEEN, 0.7), RepetitionPenaltyLogitsProcessor(0.7)),
        ("top-k 7", lambda x: keep_top_k(x, 7), TopKLogitsWarper(7)),
        ("top-k 1000 of 500", lambda x: keep_top_k(x, 1000), TopKLogitsWarper(1000)),
        ("top-p 0.9", lambda x: keep_top_p(x, 0.9), TopPLogitsWarper(0.9)),
        ("top-p 0.1", lambda x: keep_top_p(x, 0.1), TopPLogitsWarper(0.1)),
        ("min-p 0.05", lambda x: keep_min_p(x, 0.05), MinPLogitsWarper(0.05)),
        ("min-p 1", lambda x: keep_min_p(x, 1.0), MinPLogitsWarper(1.0)),
    ],
)
def test_each_step_is_transformers(what, ours, theirs, parity):
    differing = 0
    for seed in range(20):
        x = logits(0.5 + seed / 3, seed)
        differing += int((ours(x) != theirs(PROMPTS, x)).sum())
    parity.exact(what, "transformers", differing)


ALL = {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.2}


def test_the_order_is_transformers(tiny_llama, parity):
    """Their own list, as `generate` makes it, on the same logits."""
    config = tiny_llama.generation_config
    config.update(do_sample=True, **ALL)
    theirs = tiny_llama._get_logits_processor(config, input_ids_seq_length=30, logits_processor=LogitsProcessorList())
    names = [type(each).__name__ for each in theirs]
    order = ["RepetitionPenalty", "Temperature", "TopK", "TopP", "MinP"]
    assert [name for name in names if name.startswith(tuple(order))] == [
        "RepetitionPenaltyLogitsProcessor",
        *(f"{name}LogitsWarper" for name in order[1:]),
    ]
    ours = SamplingSettings(**ALL)
    differing = sum(int((ours.apply(logits(3, s), SEEN) != theirs(PROMPTS, logits(3, s))).sum()) for s in range(20))
    parity.exact("penalty, temperature, top-k, top-p, min-p in this order", "transformers generate's list", differing)


def test_another_order_would_differ():
    x, s = logits(), SamplingSettings(**ALL)
    turned = LogitsProcessorList([MinPLogitsWarper(0.02), TemperatureLogitsWarper(0.7)])(PROMPTS, x)
    assert (turned != SamplingSettings(temperature=s.temperature, min_p=s.min_p).apply(x)).any()


def test_min_p_looks_at_the_tempered_probabilities():
    x = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = [int(SamplingSettings(temperature=t, min_p=0.2).apply(x).isfinite().sum()) for t in (1.0, 2.0)]
    assert kept == [3, 4]


def test_ties_at_the_border():
    """Equal tokens: top-k keeps all, as transformers does; top-p keeps the lowest ids, where transformers does not."""
    flat = torch.zeros(1, 4)
    assert keep_top_k(flat, 1).isfinite().all()
    assert TopKLogitsWarper(1)(PROMPTS, flat).isfinite().all()
    assert keep_top_p(flat, 0.5).isfinite().tolist() == [[True, True, False, False]]
    p = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert keep_top_p(p, 0.75).isfinite().tolist() == [[True, True, False]]
    theirs = TopPLogitsWarper(0.75)(PROMPTS, p).isfinite()
    assert int(theirs.sum()) == 2, "as many, whichever they are"


def test_the_likeliest_token_always_stays():
    x = torch.tensor([[0.0, 20.0, 0.0]])
    for kept in (keep_top_p(x, 1e-9), keep_min_p(x, 1.0), keep_top_k(x, 1)):
        assert kept.isfinite().tolist() == [[False, True, False]]


def test_greedy_with_a_penalty_is_transformers_in_a_batch_too(tiny_llama, parity):
    """Left padding counts as seen in neither: transformers 5.23 tells the processor how long it is."""
    prompts = [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]
    width = max(map(len, prompts))
    ids = torch.tensor([[2] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {"max_new_tokens": 15, "do_sample": False, "repetition_penalty": 1.5, "eos_token_id": None}
    theirs = tiny_llama.generate(ids, attention_mask=mask, **options)[:, width:].tolist()
    ours = generate(tiny_llama, prompts, 15, repetition_penalty=1.5, eos_token_id=())
    parity.exact(
        "greedy with a repetition penalty, padded batch",
        "transformers generate",
        sum(a != b for a, b in zip(ours, theirs, strict=True)),
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", -1), ("temperature", float("nan")), ("top_k", -1), ("top_k", 1.5), ("top_p", 0), ("top_p", 1.1),
     ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0), ("repetition_penalty", float("inf"))],
)  # fmt: skip
def test_values_out_of_range_are_refused(tiny_llama, setting, value):
    with pytest.raises(CourseError, match=f"{setting} is {value}; it has to be"):
        generate(tiny_llama, [[1]], 1, **{setting: value})
