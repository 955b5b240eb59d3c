"""A mix of corpora with a target of tokens."""

from collections import Counter

import numpy as np
import pytest

from course_lib.data.mixture import CARRIED, DataConfig, corpus_documents, read_mixture
from course_lib.errors import CourseError

END = 0


class Letters:
    """One id for each character."""

    def __call__(self, text):
        return {"input_ids": [ord(letter) for letter in text]}


def read(mix, target, part="train", seed=0, **options):
    return read_mixture(DataConfig(mix, target, **options), Letters(), END, part, seed)


def documents(mixture):
    parts = np.split(mixture.ids, np.flatnonzero(mixture.ids == END) + 1)
    return ["".join(map(chr, part[:-1])) for part in parts if len(part) and part[-1] == END]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {n:03} of the book." for n in range(50)))
    return str(path)


def test_every_corpus_gets_its_share_of_the_target(book):
    found = read({"sums": 3, "prose": 1, book: 0.1}, 20_000)
    assert len(found.ids) == sum(found.tokens.values()) == 20_000
    assert found.tokens["sums"] == round(20_000 * 3 / 4.1)
    assert found.tokens[book] == round(20_000 * 0.1 / 4.1)
    assert found.epochs.keys() == {book}
    assert "sums: 14,634 tokens (73.2%, generated)" in found.describe()


def test_the_same_seed_reads_the_same_and_another_one_does_not():
    mix = {"worked": 0.5, "stories": 0.5}
    assert np.array_equal(read(mix, 3000).ids, read(mix, 3000).ids)
    assert not np.array_equal(read(mix, 3000).ids, read(mix, 3000, seed=1).ids)


def test_corpora_are_interleaved_or_follow_one_another():
    mixed, in_turn = (read({"sums": 1, "prose": 1}, 4000, shuffle=shuffle) for shuffle in (True, False))
    kinds = ["s" if each.startswith("Note:") else "p" for each in documents(mixed)]
    assert "sp" in "".join(kinds)
    assert "ps" in "".join(kinds)
    assert "ps" not in "".join("s" if each.startswith("Note:") else "p" for each in documents(in_turn))


def test_a_small_corpus_is_read_again_in_a_new_order(book):
    found = read({book: 1}, 3_400)
    read_often = Counter(documents(found))
    assert 2 < found.epochs[book] < 4
    assert min(read_often.values()) >= 2  # each paragraph of the training part once in each pass
    order = [each for each in documents(found)]
    assert order[:40] != order[40:80]
    assert set(order[:40]) == set(order[40:80])
    kept = documents(read({book: 1}, 3_400, shuffle=False))
    assert kept[:40] == kept[40:80]


def test_too_many_passes_are_refused_unless_they_are_allowed(book):
    with pytest.raises(
        CourseError, match=r"book.txt has 1,\d+ tokens, .*passes, and max_epochs is 4.*allow_more_epochs"
    ):
        read({book: 1}, 20_000)
    assert len(read({book: 1}, 20_000, allow_more_epochs=True).ids) == 20_000
    assert len(read({book: 1}, 20_000, max_epochs=30).ids) == 20_000


def test_the_parts_of_a_text_share_nothing(book):
    parts = [set(corpus_documents(book, part)) for part in ("train", "development", "held_out")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50
    held_out = read({book: 1}, 20_000, "held_out")  # what is held out is read once, whatever the target
    assert len(documents(held_out)) == len(parts[2])


@pytest.mark.parametrize("name", CARRIED)
def test_every_carried_corpus_has_three_parts(name):
    for part in ("train", "development", "held_out"):
        documents = corpus_documents(name, part)
        assert len(next(iter(documents))) > 10
    with pytest.raises(CourseError, match="part='test' is unknown"):
        corpus_documents(name, "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_mix": {}, "tokens_target": 10}, "names no corpus"),
        ({"dataset_mix": {"sums": 0}, "tokens_target": 10}, "sums the share 0"),
        ({"dataset_mix": {"smus": 1}, "tokens_target": 10}, "no corpus 'smus'.*sums"),
        ({"dataset_mix": {"sums": 1}, "tokens_target": 0}, "tokens_target=0"),
        ({"dataset_mix": {"sums": 1}, "tokens_target": 10, "max_epochs": 0}, "max_epochs=0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(CourseError, match=message):
        DataConfig(**options)


def test_a_text_without_parts_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("One paragraph.")
    with pytest.raises(CourseError, match="1 paragraphs is too short"):
        read({str(tmp_path / "short.txt"): 1}, 100)
