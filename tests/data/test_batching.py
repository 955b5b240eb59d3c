"""Padding, packing, grouping, budgets: worked arithmetic, properties, and the loss of packed rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data import (
    IGNORE,
    block_diagonal,
    length_grouped,
    pack,
    pad,
    padding_waste,
    plan_packing,
    shuffled,
    token_budget,
)
from course_lib.errors import CourseError

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=80)


def example(ids):
    return {"input_ids": list(ids), "labels": [IGNORE, *ids[1:]]}


def test_pad_by_hand():
    batch = pad([example([5, 6, 7]), example([8])], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7], [IGNORE, IGNORE, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    with pytest.raises(CourseError, match="empty batch"):
        pad([], 0)


def test_pack_by_hand():
    batch = pack([example([5, 6]), example([7, 8, 9]), example([3])], capacity=4, pad_token_id=0)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 3], [5, 6, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 8, 9, IGNORE], [IGNORE, 6, IGNORE, IGNORE]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1], [0, 0, -1, -1]]
    mask = block_diagonal(batch["segment_ids"])[:, 0].astype(int)
    assert mask[0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    assert mask[1].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@given(LENGTHS)
def test_packing_keeps_every_example_and_no_row_overflows(lengths):
    rows = plan_packing(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 50) + len([n for n in lengths if n > 16]) + 1


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_plans_use_every_example_once(lengths, batch_size, seed):
    for plan in (shuffled(lengths, batch_size, seed), length_grouped(lengths, batch_size, seed, window=3)):
        assert sorted(int(i) for batch in plan for i in batch) == list(range(len(lengths)))
        assert max(map(len, plan)) <= batch_size
        assert 0 <= padding_waste(lengths, plan) < 1


@given(LENGTHS, st.integers(50, 200))
def test_token_budget_is_kept(lengths, budget):
    plan = token_budget(lengths, budget, window=17)
    assert sorted(int(i) for batch in plan for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= budget for batch in plan)


def test_seeds_decide_the_order():
    lengths = np.arange(1, 40)
    for plan in (shuffled, length_grouped):
        first, again, other = (np.concatenate(plan(lengths, 4, seed)).tolist() for seed in (0, 0, 1))
        assert first == again != other


def test_waste_by_hand_and_what_grouping_saves():
    assert padding_waste([4, 2, 3, 3], [[0, 1], [2, 3]]) == pytest.approx(2 / 14)
    lengths = np.random.default_rng(0).lognormal(4, 0.6, 1000).astype(int) + 1
    assert padding_waste(lengths, length_grouped(lengths, 8)) < 0.2 * padding_waste(lengths, shuffled(lengths, 8))


def test_too_long_examples_are_named():
    with pytest.raises(CourseError, match="Example 1 has 9 tokens, more than a row of 8"):
        plan_packing([3, 9], 8)
    with pytest.raises(CourseError, match="Example 1 has 9 tokens, more than the budget of 8"):
        token_budget([3, 9], 8)


@pytest.mark.parametrize("plan", [shuffled, length_grouped])
def test_bad_arguments_are_named(plan):
    with pytest.raises(CourseError, match="batch_size=-1: at least 1"):
        plan([3, 4], -1)
    for make in (lambda row: pad([row], 0), lambda row: pack([row], 8, 0)):
        with pytest.raises(CourseError, match="Example 0 has 3 ids and 1 labels"):
            make({"input_ids": [1, 2, 3], "labels": [1]})
    assert padding_waste([], []) == 0


def test_packing_is_as_good_as_trls():
    """TRL packs best fit decreasing too: the same number of rows, and each row as full."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    lengths = np.random.default_rng(1).lognormal(4, 0.7, 2000).astype(int).clip(1, 512)
    packed = trl.pack_dataset(Dataset.from_dict({"input_ids": [[0] * n for n in lengths]}), 512, "bfd")
    # TRL packs a thousand examples at a time, so do we here
    rows = [row for start in (0, 1000) for row in plan_packing(lengths[start : start + 1000], 512)]
    assert len(rows) == len(packed)


def test_packed_loss_equals_the_loss_alone(tiny_llama, parity):
    import torch

    model, rng = tiny_llama.double(), np.random.default_rng(0)
    examples = [example([int(i) for i in rng.integers(3, 97, n)]) for n in rng.integers(2, 30, 12)]
    batch = pack(examples, 40, pad_token_id=0)
    tokens = {key: torch.as_tensor(batch[key]) for key in ("input_ids", "position_ids")}
    allowed = torch.as_tensor(block_diagonal(batch["segment_ids"]))
    with torch.no_grad():
        logits = model(**tokens, attention_mask=allowed).logits
        alone = [model(torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss for e in examples]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), torch.as_tensor(batch["labels"][:, 1:]), reduction="none"
    )
    ours, order = [], [i for row in plan_packing([len(e["input_ids"]) for e in examples], 40) for i in row]
    for row in range(len(losses)):
        for number in range(batch["segment_ids"][row].max() + 1):
            inside = (batch["segment_ids"][row, 1:] == number) & (batch["labels"][row, 1:] != IGNORE)
            ours.append(losses[row][torch.as_tensor(inside)].mean())
    expected = [alone[i] for i in order]
    why = "transformers computes rotary angles and norms in float32, also in a float64 model"
    parity.close("loss of each packed example", "the example alone (transformers)", ours, expected, 1e-6, why)


@pytest.mark.weights
@pytest.mark.slow
def test_packed_loss_on_the_real_model(smollm2, parity):
    import torch

    from course_lib.data import Record, encode_record

    model, tokenizer = smollm2
    sayings = [
        "The tide waits for no one.",
        "Salt keeps.",
        "A long, long way from here there is a lamp that is never out.",
    ]
    records = [
        Record(({"role": "user", "content": "Say something."}, {"role": "assistant", "content": s})) for s in sayings
    ]
    examples = [encode_record(record, tokenizer) for record in records]
    batch = pack(examples, 160, tokenizer.pad_token_id)
    assert len(batch["input_ids"]) == 1
    with torch.no_grad():
        allowed = torch.as_tensor(block_diagonal(batch["segment_ids"]))
        tokens = {key: torch.as_tensor(batch[key]) for key in ("input_ids", "position_ids", "labels")}
        together = model(**tokens, attention_mask=allowed).loss.item()
        alone = [
            model(torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss.item() for e in examples
        ]
    counts = [sum(label != IGNORE for label in e["labels"]) for e in examples]
    expected = np.average(alone, weights=counts)
    why = "float32: sums in another order; 1e-5 is far below what changes a run"
    parity.close("packed loss, SmolLM2", "the examples alone", together, expected, 1e-5, why)
