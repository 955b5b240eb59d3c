"""From examples of unequal length to batches: padding, packing, length grouping, token budgets.

An example is {"input_ids": [...], "labels": [...]}. A batch of numbers is a plan: it says which examples go together.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from course_lib.data.masking import IGNORE, Example
from course_lib.data.text import at_least_one
from course_lib.errors import CourseError


class Rows(Protocol):
    """What is indexed by rows: token blocks (rows, time), as an array or `TokenShards`, or a list of examples."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: Any, /) -> Any:
        """One row by number, or several blocks by an array of numbers."""


def pad(examples: Sequence[Example], pad_token_id: int) -> dict[str, np.ndarray]:
    """One batch, padded on the right to its longest example.

    Args:
        examples: {"input_ids", "labels"} of each.
        pad_token_id: what fills up the shorter examples.

    Returns:
        input_ids, labels (IGNORE where padded) and attention_mask (1 for real tokens): int64 (batch, longest).

    Raises:
        CourseError: `examples` is empty, or one of them has unequal numbers of ids and labels.
    """
    if not examples:
        raise CourseError("An empty batch cannot be padded: give at least one example.")
    lengths = np.array(_lengths(examples))
    shape = (len(examples), lengths.max())
    batch = {"input_ids": np.full(shape, pad_token_id), "labels": np.full(shape, IGNORE)}
    for row, example in enumerate(examples):
        for key, array in batch.items():
            array[row, : lengths[row]] = example[key]
    real = np.arange(shape[1]) < lengths[:, None]  # (longest,) < (batch, 1) -> (batch, longest)
    return batch | {"attention_mask": real.astype(np.int64)}


def collate(rows: Rows, chosen: Sequence[int] | np.ndarray, pad_token_id: int) -> np.ndarray | dict[str, np.ndarray]:
    """The chosen rows as one batch.

    Args:
        rows: token blocks (rows, time) or anything that is indexed like them (`TokenShards`), or a list of examples.
        chosen: which rows.
        pad_token_id: fills up shorter examples.

    Returns:
        int64 (batch, time) for blocks, the dictionary of `pad` for examples.
    """
    if isinstance(rows, list):
        return pad([rows[i] for i in chosen], pad_token_id)
    return rows[np.asarray(chosen)]


def _lengths(examples: Sequence[Example]) -> list[int]:
    """The tokens of each example; CourseError where one has unequal numbers of ids and labels."""
    for number, example in enumerate(examples):
        if len(example["input_ids"]) != len(example["labels"]):
            raise CourseError(
                f"Example {number} has {len(example['input_ids'])} ids and {len(example['labels'])} labels: give one "
                "label for each id."
            )
    return [len(example["input_ids"]) for example in examples]


def plan_packing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which examples share a row: best fit, the longest first.

    Each example goes into the fullest row that still has room for it. Best fit decreasing needs at most 11/9 of the
    fewest rows possible, and one more (Johnson et al. 1974).

    Args:
        lengths: tokens of each example.
        capacity: tokens of a row.

    Returns:
        The numbers of the examples in each row.

    Raises:
        CourseError: an example is longer than a row.

    Example:
        >>> plan_packing([5, 3, 4, 2], capacity=8)
        [[0, 1], [2, 3]]
    """
    if longer := [i for i, length in enumerate(lengths) if length > capacity]:
        raise CourseError(
            f"Example {longer[0]} has {lengths[longer[0]]} tokens, more than a row of {capacity}: cut it first."
        )
    # Few different numbers of free tokens occur, so that the fullest row is found without looking at every row.
    rooms: dict[int, list[list[int]]] = {}  # free tokens -> the rows that have so many
    rows = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        free = min((room for room in rooms if room >= lengths[index]), default=None)
        if free is None:
            free = capacity
            row: list[int] = []
            rows.append(row)
        else:
            row = rooms[free].pop()
            if not rooms[free]:
                del rooms[free]
        row.append(index)
        rooms.setdefault(free - lengths[index], []).append(row)
    return rows


def pack(examples: Sequence[Example], capacity: int, pad_token_id: int) -> dict[str, np.ndarray]:
    """Lay examples end to end in rows, where none of them sees its neighbours.

    Args:
        examples: {"input_ids", "labels"} of each.
        capacity: tokens of a row.
        pad_token_id: what fills up a row's end.

    Returns:
        int64 arrays (rows, capacity): input_ids; labels, where an example's first token is IGNORE, because what comes
        before it is another example; position_ids, which start again at 0 with every example; segment_ids, the
        example's number in its row, -1 for the padding at the end. `block_diagonal` makes the attention mask of the
        last.

    Raises:
        CourseError: an example is longer than a row, or has unequal numbers of ids and labels.
    """
    plan = plan_packing(_lengths(examples), capacity)
    shape = (len(plan), capacity)
    fillers = {"input_ids": pad_token_id, "labels": IGNORE, "position_ids": 0, "segment_ids": -1}
    batch = {key: np.full(shape, filler) for key, filler in fillers.items()}
    for row, members in enumerate(plan):
        start = 0
        for number, index in enumerate(members):
            ids, labels = examples[index]["input_ids"], examples[index]["labels"]
            place = slice(start, start + len(ids))
            batch["input_ids"][row, place] = ids
            batch["labels"][row, place] = [IGNORE, *labels[1:]]
            batch["position_ids"][row, place] = np.arange(len(ids))
            batch["segment_ids"][row, place] = number
            start += len(ids)
    return batch


def block_diagonal(segment_ids: np.ndarray) -> np.ndarray:
    """Which token may attend to which in packed rows.

    Args:
        segment_ids: (rows, time), the number of each token's example in its row; -1 for padding.

    Returns:
        bool (rows, 1, time, time): True from a token (third axis) to itself and to the earlier tokens of its own
        example (fourth axis). Padding sees only itself, so that no row of a softmax is empty.
    """
    time = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]  # (rows, time, time)
    causal = np.tril(np.ones((time, time), dtype=bool))  # (time, time)
    real = (segment_ids >= 0)[:, :, None]  # (rows, time, 1)
    allowed = (same & causal & real) | np.eye(time, dtype=bool)
    return allowed[:, None]  # (rows, 1, time, time): the same for every head


def shuffled(lengths: Sequence[int], batch_size: int, seed: int = 0) -> list[np.ndarray]:
    """Batches of random examples; the last may be smaller.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch.
        seed: decides the order.

    Returns:
        The numbers of the examples in each batch.

    Raises:
        CourseError: batch_size is below 1.
    """
    at_least_one(batch_size=batch_size)
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def length_grouped(lengths: Sequence[int], batch_size: int, seed: int = 0, window: int = 50) -> list[np.ndarray]:
    """Batches of similar lengths that still differ from pass to pass.

    Random examples are taken `window` batches at a time, sorted within that window and cut into batches, whose order is
    then drawn anew: the method of transformers' LengthGroupedSampler.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch.
        seed: decides the order.
        window: how many batches are sorted together. More of them waste less, and mix less.

    Returns:
        The numbers of the examples in each batch.

    Raises:
        CourseError: batch_size or window is below 1.
    """
    at_least_one(batch_size=batch_size, window=window)
    rng, sizes = np.random.default_rng(seed), np.asarray(lengths)
    order = rng.permutation(len(sizes))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window * batch_size):
        group = order[start : start + window * batch_size]
        group = group[np.argsort(-sizes[group], kind="stable")]
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def token_budget(lengths: Sequence[int], max_tokens: int, seed: int = 0, window: int = 1000) -> list[np.ndarray]:
    """Micro-batches that hold at most so many tokens after padding: few long examples or many short ones.

    Examples are shuffled, sorted within windows, and taken while batch size times longest stays in the budget.

    Args:
        lengths: tokens of each example.
        max_tokens: the budget of a micro-batch, padding included.
        seed: decides the order.
        window: how many examples are sorted together.

    Returns:
        The numbers of the examples in each micro-batch.

    Raises:
        CourseError: one example alone exceeds the budget, or window is below 1.
    """
    at_least_one(window=window)
    rng, sizes = np.random.default_rng(seed), np.asarray(lengths)
    if len(sizes) and sizes.max() > max_tokens:
        raise CourseError(f"Example {sizes.argmax()} has {sizes.max()} tokens, more than the budget of {max_tokens}.")
    order = rng.permutation(len(sizes))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window):
        group = order[start : start + window]
        batches += _within(group[np.argsort(sizes[group], kind="stable")], sizes, max_tokens)
    return [batches[i] for i in rng.permutation(len(batches))]


def _within(ascending: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Cut examples of ascending length where one more, the longest so far, would exceed the budget."""
    start = 0
    for end in range(1, len(ascending) + 1):
        if end == len(ascending) or (end - start + 1) * lengths[ascending[end]] > max_tokens:
            yield ascending[start:end]
            start = end


def padding_waste(lengths: Sequence[int], batches: Sequence[Sequence[int] | np.ndarray]) -> float:
    """The share of a pass's tokens that is padding, when each batch is padded to its longest example.

    Args:
        lengths: tokens of each example.
        batches: the numbers of the examples in each batch.

    Returns:
        A share from 0 to 1.

    Example:
        >>> float(padding_waste([2, 4], [[0, 1]]))  # 2 of 8 places are padding
        0.25
    """
    sizes = np.asarray(lengths)
    computed = sum(len(batch) * sizes[np.asarray(batch)].max() for batch in batches)
    return (computed - sum(sizes[np.asarray(batch)].sum() for batch in batches)) / max(computed, 1)
