"""From plain text to batches of token ids."""

from collections.abc import Iterator

import numpy as np

from course_lib.data.tokenizers import Tokenizer
from course_lib.errors import CourseError


def at_least_one(**named: int) -> None:
    """Refuse arguments below 1.

    Args:
        named: the arguments by name.

    Raises:
        CourseError: one of them is below 1. The message names the first.
    """
    for name, value in named.items():
        if value < 1:
            raise CourseError(f"{name}={value}: at least 1.")


def split_paragraphs(text: str, held_out: float = 0.1) -> tuple[str, str]:
    """Cut a text between paragraphs.

    Args:
        text: paragraphs with blank lines between them.
        held_out: the share of the paragraphs that is held out, from the end.

    Returns:
        (training part, held-out part).

    Raises:
        CourseError: one of the parts would be empty.
    """
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]
    count = round(held_out * len(paragraphs)) if 0 < held_out < 1 else 0
    if not 0 < count < len(paragraphs):
        raise CourseError(
            f"held_out={held_out} of {len(paragraphs)} paragraphs leaves one of the parts empty: give more text, or "
            "another share."
        )
    return "\n\n".join(paragraphs[:-count]), "\n\n".join(paragraphs[-count:])


def token_blocks(text: str, tokenizer: Tokenizer, block_size: int) -> np.ndarray:
    """Tokenise a text and cut it into rows; the tail that does not fill a row is dropped.

    Args:
        text: any text.
        tokenizer: makes ids of it.
        block_size: tokens of a row.

    Returns:
        int64 (blocks, block_size).

    Raises:
        CourseError: the text is shorter than one row, or block_size is below 1.
    """
    at_least_one(block_size=block_size)
    ids = tokenizer(text)["input_ids"]
    if len(ids) < block_size:
        raise CourseError(
            f"The text has {len(ids)} tokens, fewer than one block of {block_size}: give more text, or a smaller block."
        )
    count = len(ids) // block_size
    return np.array(ids[: count * block_size], dtype=np.int64).reshape(count, block_size)


def batches(blocks: np.ndarray, batch_size: int, steps: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Batches of random blocks, each pass over them in a new order.

    A pass drops the last blocks that do not fill a batch; the next pass reshuffles, so none is left out for good.

    Args:
        blocks: int64 (blocks, block_size).
        batch_size: blocks of a batch.
        steps: how many batches.
        seed: decides the order.

    Yields:
        int64 (batch_size, block_size).

    Raises:
        CourseError: there are fewer blocks than one batch needs, or batch_size is below 1.

    Example:
        >>> [batch.shape for batch in batches(np.arange(12).reshape(4, 3), batch_size=2, steps=3)]
        [(2, 3), (2, 3), (2, 3)]
    """
    at_least_one(batch_size=batch_size)
    if batch_size > len(blocks):
        raise CourseError(
            f"A batch of {batch_size} needs as many blocks, and there are {len(blocks)}: give more text, or a smaller "
            "batch."
        )
    rng = np.random.default_rng(seed)
    per_pass = len(blocks) // batch_size
    order = rng.permutation(len(blocks))
    for step in range(steps):
        # The first order is drawn above, so that step 0 does not draw another.
        if step and step % per_pass == 0:
            order = rng.permutation(len(blocks))
        start = (step % per_pass) * batch_size
        yield blocks[order[start : start + batch_size]]
