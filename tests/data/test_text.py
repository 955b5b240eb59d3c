import subprocess
import sys

import numpy as np
import pytest

from course_lib.data import batches, split_paragraphs, style_corpus, token_blocks
from course_lib.errors import CourseError


class Letters:
    def __call__(self, text):
        return {"input_ids": [ord(c) for c in text]}


def test_no_torch_behind_the_data_room():
    code = "import course_lib.data, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_corpus_is_some_thousand_words_in_one_voice():
    text = style_corpus()
    entries = text.strip().split("\n\n")
    assert 1_500 < len(text.split()) < 5_000
    assert len(set(entries)) == len(entries)
    assert all(entry.endswith("So logged.") and " bell. " in entry for entry in entries)


def test_split_keeps_every_paragraph_once():
    text = style_corpus()
    train, held_out = split_paragraphs(text, 0.1)
    assert train + "\n\n" + held_out == text.strip()
    with pytest.raises(CourseError, match="leaves one of the parts empty"):
        split_paragraphs("one\n\ntwo", 0.01)


def test_blocks_are_the_text_in_order():
    blocks = token_blocks("abcdefgh", Letters(), 3)
    assert blocks.tolist() == [[97, 98, 99], [100, 101, 102]]
    with pytest.raises(CourseError, match="8 tokens, fewer than one block of 9"):
        token_blocks("abcdefgh", Letters(), 9)


def test_a_pass_shows_each_block_once_and_the_seed_decides_the_order():
    blocks = np.arange(12).reshape(6, 2)
    first = list(batches(blocks, 2, 6, seed=1))
    assert sorted(row[0] for batch in first[:3] for row in batch.tolist()) == [0, 2, 4, 6, 8, 10]
    assert sorted(row[0] for batch in first[3:] for row in batch.tolist()) == [0, 2, 4, 6, 8, 10]
    again, other = list(batches(blocks, 2, 6, seed=1)), list(batches(blocks, 2, 6, seed=2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    with pytest.raises(CourseError, match="A batch of 7"):
        list(batches(blocks, 7, 1))


def test_bad_arguments_are_named():
    with pytest.raises(CourseError, match="batch_size=0: at least 1"):
        list(batches(np.zeros((3, 2)), 0, 1))
    with pytest.raises(CourseError, match="block_size=0: at least 1"):
        token_blocks("abc", Letters(), 0)
    with pytest.raises(CourseError, match="held_out=nan of 2 paragraphs"):
        split_paragraphs("a\n\nb", float("nan"))
