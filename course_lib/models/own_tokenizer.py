"""A small tokenizer of one's own for a model that is trained from scratch, in the layout that transformers reads.

The merges are learnt by the NumPy edition's `BPETokenizer`. Small numbers are frequent in the texts of
`data.generators.pocket_texts`, so each becomes one token.
"""

import json
from collections.abc import Iterable
from typing import Any

from course_lib.scratch import BPETokenizer
from course_lib.scratch.tokenizer import byte_letters

END = "<|endoftext|>"
SPECIAL_TOKENS = (END,)
# A conversation is a document: it begins after an end token, and an answer is its next sentence. Nothing in it differs
# from what pretraining has seen. New tokens around the question would shift the distance between question and numbers,
# which a small model relies on: with them, accuracy fell from 98 in 100 texts to 1 in 60.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}<|endoftext|>"
    "{% else %}{% if loop.first %}<|endoftext|>{% endif %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)


def learn_tokenizer(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn merges from texts.

    Args:
        texts: what to learn from.
        vocab_size: bytes, merges and the end token together.

    Returns:
        The tokenizer.
    """
    return BPETokenizer.train("\n".join(texts), vocab_size, SPECIAL_TOKENS)


def as_transformers(tokenizer: BPETokenizer) -> Any:
    """The same tokenizer for transformers, with a chat template; tests/models/test_own_tokenizer.py compares the ids.

    Args:
        tokenizer: from `learn_tokenizer`.

    Returns:
        A `PreTrainedTokenizerFast`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = byte_letters()
    names = [letters[byte] for byte in range(256)]  # of each id: GPT-2's printable letters
    pairs = []
    for left, right in tokenizer.merges:
        pairs.append((names[left], names[right]))
        names.append(names[left] + names[right])
    inner = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # it cuts words by GPT-2's pattern
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, normalized=False) for text in tokenizer.special_tokens])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vocabulary_of(tokenizer: Any) -> dict[str, int]:
    """The texts of a fast tokenizer's ids, from its own file: for comparisons."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
