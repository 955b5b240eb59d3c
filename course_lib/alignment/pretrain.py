"""Pretraining: a decoder of our own learns the next token of a mix of corpora, from random weights.

It is the stage before supervised fine-tuning. The run, its folder and its checkpoints work as in `course train`. Only
the mix (`data.mixture`), a tokenizer that is learnt from it, and the decoder's fast training path are its own.
"""

from itertools import islice
from typing import Any

import numpy as np

from course_lib.alignment.settings import PretrainSettings
from course_lib.data.mixture import DataConfig, corpus_documents, read_mixture
from course_lib.errors import CourseError
from course_lib.finetuning.naming import is_scratch
from course_lib.finetuning.plan import Plan, make_plan
from course_lib.finetuning.settings import Settings
from course_lib.finetuning.source import Source, pad_id
from course_lib.models.own_tokenizer import as_transformers, learn_tokenizer
from course_lib.options import filled

LEARNT_FROM = 600  # documents of each corpus from which the merges are learnt
HELD_OUT_TOKENS = 16_384  # of the development part, at most


def tokenizer_of(config: DataConfig, vocab_size: int, seed: int = 0) -> Any:
    """Learn a tokenizer from the training part of a mix. Equal arguments give equal tokenizers.

    Args:
        config: the mix; its shares do not matter.
        vocab_size: the number of ids.
        seed: the seed of generated texts.

    Returns:
        A tokenizer for transformers.
    """
    # The mark before an answer does not occur in the texts, and should be one token.
    texts = [" ####"] * LEARNT_FROM
    texts += [
        text for name in config.dataset_mix for text in islice(corpus_documents(name, "train", seed), LEARNT_FROM)
    ]
    return as_transformers(learn_tokenizer(texts, vocab_size))


def plan_pretrain(settings: PretrainSettings) -> Plan:
    """Plan a run: read the mix and the shape of the model, but neither its weights nor any output folder.

    Args:
        settings: the complete settings.

    Returns:
        The plan, for `finetuning.run.train`.

    Raises:
        CourseError: the mix cannot be read, or it is so small that a corpus would be repeated too often.
    """
    learnt = None
    if settings.tokenizer is None and is_scratch(settings):
        learnt = tokenizer_of(settings.data_config(), settings.vocab_size, settings.seed)
    return make_plan(settings, read_mix, tokenizer=learnt)


def read_mix(s: Settings, tokenizer: Any, positions: int | None) -> Source:
    """Read a mix as blocks of token ids, for training and for development.

    Args:
        s: `PretrainSettings`.
        tokenizer: the model's.
        positions: how many tokens the model can take; None for any number.

    Returns:
        The rows to train on, and the held-out rows.

    Raises:
        CourseError: see `read_mixture`; or the text is shorter than one row.
    """
    assert isinstance(s, PretrainSettings)
    config, seq_len = s.data_config(), min(filled(s.seq_len), positions or filled(s.seq_len))
    end = tokenizer.eos_token_id
    if end is None:
        raise CourseError("The tokenizer has no end-of-text token, so documents could not be kept apart: set one.")
    mixture = read_mixture(config, tokenizer, end, "train", s.seed)
    few = DataConfig(config.dataset_mix, min(config.tokens_target, HELD_OUT_TOKENS))
    held_out = blocks(read_mixture(few, tokenizer, end, "development", s.seed).ids, seq_len)
    train = blocks(mixture.ids, seq_len)
    what = f"a mix of {len(config.dataset_mix)} corpora, {len(train):,} rows of {seq_len}"
    return Source(
        what, train, held_out[: s.max_eval_samples or None], train.size, pad_id(tokenizer), seq_len,
        tuple(mixture.describe()), shuffle=config.shuffle,
    )  # fmt: skip


def blocks(ids: np.ndarray, seq_len: int) -> np.ndarray:
    """Cut token ids into rows. The rest that does not fill a row is left out.

    Args:
        ids: (tokens,).
        seq_len: the number of tokens in a row.

    Returns:
        (rows, seq_len).

    Raises:
        CourseError: the ids are fewer than one row.

    Example:
        >>> blocks(np.arange(7), seq_len=3).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    count = len(ids) // seq_len
    if not count:
        raise CourseError(f"{len(ids)} tokens do not fill a row of {seq_len}: raise tokens_target, or lower seq_len.")
    return ids[: count * seq_len].reshape(count, seq_len)
