"""What `encode_record` refuses, and turns that a template marks. The labels: tests/parity/test_masking.py."""

import pytest

from course_lib.data import IGNORE, Record, encode_record, encode_records
from course_lib.data.records import ask, reply
from course_lib.errors import CourseError

RECORD = Record((ask("one two"), reply("three four")))
MARKED = (
    "{% for m in messages %}{%if m['role'] == 'assistant' %}{%GEN%}{{ m['content'] }}{%endgeneration%}"
    "{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["?", "one", "two", "three", "four"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("train_on", ["response", "assistant", "all"])
def test_a_template_that_is_missing_or_refuses_is_named(tokenizer, train_on):
    with pytest.raises(CourseError, match="no chat template: choose template='instruction'"):
        encode_record(RECORD, tokenizer, train_on=train_on)
    tokenizer.chat_template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(CourseError, match="chat template refuses the conversation: only one turn"):
        encode_record(RECORD, tokenizer, train_on=train_on)


@pytest.mark.parametrize("mark", ["generation", "- generation ", "  generation "])
def test_marked_turns_are_found_however_the_mark_is_spelt(tokenizer, mark):
    tokenizer.chat_template = MARKED.replace("GEN", mark)
    assert encode_record(RECORD, tokenizer, train_on="assistant")["labels"] == [IGNORE, IGNORE, 3, 4]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tokenizer, limit):
    for encode in (lambda: encode_record(RECORD, tokenizer, max_length=limit),
                   lambda: encode_records([RECORD], tokenizer, max_length=limit, too_long="skip")):  # fmt: skip
        with pytest.raises(CourseError, match=f"max_length={limit}: at least 1"):
            encode()
