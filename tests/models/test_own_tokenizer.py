"""A small tokenizer of one's own: learnt by our BPE, the same in transformers."""

from itertools import islice

import pytest

from course_lib.alignment.pretrain import tokenizer_of
from course_lib.alignment.templates import check_template
from course_lib.data.generators.pocket_texts import TEXTS, pocket_texts
from course_lib.data.mixture import DataConfig, corpus_documents
from course_lib.data.templates import chat_text
from course_lib.models.own_tokenizer import END, as_transformers, learn_tokenizer
from course_lib.models.pretrained import load_tokenizer

TEXT = [text for name in TEXTS for text in islice(pocket_texts(name), 100)] + list(corpus_documents("keepers_log"))
ODD = ["", " ", "\n\n x", "naïve café 12345", "a" * 50, f"{END}12 #### 4{END}", "tab\tand 日本"]


@pytest.fixture(scope="module")
def ours():
    return learn_tokenizer(TEXT, 420)


def test_transformers_gives_the_same_ids_and_texts(ours):
    theirs = as_transformers(ours)
    assert len(theirs) == ours.vocab_size == 420
    for text in TEXT[::7] + ODD:
        assert theirs(text)["input_ids"] == ours.encode(text), text
        assert theirs.decode(ours.encode(text)) == text


def test_it_can_be_saved_alone_and_loaded(ours, tmp_path):
    as_transformers(ours).save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded(TEXT[0])["input_ids"] == ours.encode(TEXT[0])
    assert loaded.eos_token == loaded.pad_token == END
    assert loaded.chat_template == as_transformers(ours).chat_template


def test_the_chat_template_is_one_that_can_be_trained(ours):
    theirs = as_transformers(ours)
    check_template(theirs, "chat")
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "#### 5"}]
    assert chat_text(theirs, turns) == f"{END}2 + 3? #### 5{END}"
    assert chat_text(theirs, turns[:1], generation_prompt=True) == f"{END}2 + 3?"
    ids = theirs(chat_text(theirs, turns))["input_ids"]
    assert ids[-1] == theirs.eos_token_id
    prompt = theirs(chat_text(theirs, turns[:1], generation_prompt=True))["input_ids"]
    assert ids[: len(prompt)] == prompt


def test_small_numbers_are_one_token_in_the_default_mix():
    config = DataConfig({"worked": 0.6, "sums": 0.4}, 1000)
    learnt = tokenizer_of(config, 512)
    assert all(len(learnt(f" {number}")["input_ids"]) == 1 for number in range(1, 21))
    assert len(learnt(" ####")["input_ids"]) == 1
    again = tokenizer_of(config, 512)
    assert again(TEXT[0])["input_ids"] == learnt(TEXT[0])["input_ids"]
