"""What `encode_record` refuses, and which tokens it trains. Beside TRL: tests/parity/test_masking.py."""

import pytest

from course_lib.data import IGNORE, Record, encode_record, encode_records
from course_lib.data.masking import fitting_length
from course_lib.data.records import RecordError, ask, reply
from course_lib.errors import CourseError

RECORD = Record((ask("one two"), reply("three four")))
MARKED = (
    "{% for m in messages %}{%if m['role'] == 'assistant' %}{%GEN%}{{ m['content'] }}{%endgeneration%}"
    "{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
)
WORDS = ["?", "one", "two", "three", "four", "user", "assistant", "system", "end", "begin"]
PLAIN = (  # like ChatML, in words
    "{% for m in messages %}{{ 'begin ' + m['role'] + ' ' + m['content'] + ' end ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'begin assistant ' }}{% endif %}"
)
MARKED_TURNS = (  # a header first: transformers 5.23 marks everything after a turn of one token at the very beginning
    "{% for m in messages %}{{ 'begin ' }}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'begin ' }}{% endif %}"
)
STRICT = (  # as Mistral's and Gemma's
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}{% endfor %}" + PLAIN
)


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def trained(example):
    """The trained words."""
    return " ".join(WORDS[label] for label in example["labels"] if label != IGNORE)


@pytest.mark.parametrize("train_on", ["response", "assistant", "all"])
def test_a_template_that_is_missing_or_refuses_is_named(tokenizer, train_on):
    with pytest.raises(CourseError, match="no chat template: choose template='instruction'"):
        encode_record(RECORD, tokenizer, train_on=train_on)
    tokenizer.chat_template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(CourseError, match="chat template refuses the conversation: only one turn"):
        encode_record(RECORD, tokenizer, train_on=train_on)
    tokenizer.chat_template = "{{ messages[0]['content'] + 1 }}"  # a fault of the template's own
    with pytest.raises(RecordError, match="chat template refuses the conversation: can only concatenate str"):
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


# --- the assistant speaks first ---


@pytest.mark.parametrize("template", [PLAIN, MARKED_TURNS])
def test_an_assistant_that_speaks_first_is_trained(tokenizer, template):
    tokenizer.chat_template = template
    first = Record((reply("one"), ask("two"), reply("three")))
    end = " end" if template == PLAIN else ""
    assert trained(encode_record(first, tokenizer, train_on="assistant")) == f"one{end} three{end}"
    assert trained(encode_record(first, tokenizer)) == f"three{end}"
    alone = Record((reply("four"),))
    assert trained(encode_record(alone, tokenizer, train_on="assistant")) == f"four{end}"
    assert trained(encode_record(alone, tokenizer)) == f"four{end}"


def test_a_template_with_a_system_turn_of_its_own_and_an_assistant_that_speaks_first(tokenizer):
    """SmolLM2's writes one where the conversation has none: it belongs to the first turn's header."""
    tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'system' %}{{ 'begin system four end ' }}{% endif %}" + PLAIN
    )
    first = Record((reply("one"), ask("two"), reply("three")))
    assert trained(encode_record(first, tokenizer, train_on="assistant")) == "one end three end"


# --- turns without weight ---


@pytest.mark.parametrize("template", [PLAIN, MARKED_TURNS])
def test_turns_without_weight_are_read_and_not_trained(tokenizer, template):
    tokenizer.chat_template = template
    messages = (ask("one"), reply("two"), ask("one"), reply("three"))
    record, end = Record(messages, untrained=frozenset({1})), " end" if template == PLAIN else ""
    assert trained(encode_record(record, tokenizer, train_on="assistant")) == f"three{end}"
    assert trained(encode_record(Record(messages), tokenizer, train_on="assistant")) == f"two{end} three{end}"
    everything = encode_record(record, tokenizer, train_on="all")
    assert WORDS.index("two") not in everything["labels"]
    assert WORDS.index("two") in everything["input_ids"]
    assert "one" in trained(everything)
    with pytest.raises(RecordError, match="have none that is to be trained"):
        encode_record(Record(messages, untrained=frozenset({1, 3})), tokenizer, train_on="assistant")


# --- one record among many ---


def test_a_record_that_the_template_refuses_does_not_end_the_others(tokenizer):
    tokenizer.chat_template = STRICT
    twice = Record((ask("one"), ask("two"), reply("three")), source="rows.jsonl:7")
    greeting = Record((reply("one"), ask("two"), reply("three")), source="rows.jsonl:8")
    for too_long in ("skip", "cut-start", "cut-end"):
        encoded = encode_records([RECORD, twice, RECORD, greeting], tokenizer, too_long=too_long, train_on="assistant")
        assert len(encoded.examples) == 2
        said = (
            "The tokenizer's chat template refuses the conversation: roles must alternate user/assistant/user/assistant"
        )
        assert encoded.problems == [f"rows.jsonl:7: {said}", f"rows.jsonl:8: {said}"]
    with pytest.raises(RecordError, match="^rows.jsonl:7: The tokenizer's chat template refuses"):
        encode_records([RECORD, twice], tokenizer)


def test_a_conversation_that_the_instruction_template_cannot_hold_does_not_end_the_others(tokenizer):
    longer = Record((ask("one"), reply("two"), ask("one"), reply("two")), source="rows.jsonl:7")
    encoded = encode_records([RECORD, longer], tokenizer, template="instruction", too_long="skip")
    assert len(encoded.examples) == 1
    assert encoded.problems[0].startswith("rows.jsonl:7: the instruction template holds one question and one answer")
    assert encoded.problems[0].count("rows.jsonl:7") == 1


def test_a_missing_template_is_the_tokenizers_fault_and_not_each_records(tokenizer):
    with pytest.raises(CourseError, match="no chat template"):
        encode_records([RECORD], tokenizer, too_long="skip")


# --- too long ---


def lengths_of(encoded):
    return [len(example["input_ids"]) for example in encoded.examples]


def test_what_becomes_of_a_longer_record(tokenizer):
    """begin user one two end begin assistant three four end: ten tokens, of which the last three are trained."""
    tokenizer.chat_template = PLAIN
    short = Record((ask("one"), reply("two")))  # eight tokens
    named = Record(RECORD.messages, source="rows.jsonl:3")
    encode = lambda limit, too_long: encode_records([short, named], tokenizer, max_length=limit, too_long=too_long)  # noqa: E731

    skipped = encode(8, "skip")
    assert (lengths_of(skipped), skipped.cut, skipped.lengths) == ([8], 0, [8, 10])
    assert skipped.problems == ["rows.jsonl:3: its 10 tokens are more than the limit of 8."]

    start = encode(8, "cut-start")
    assert (lengths_of(start), start.cut, start.problems) == ([8, 8], 1, [])
    assert [trained(example) for example in start.examples] == ["two end", "three four end"]  # whole answers

    end = encode(8, "cut-end")
    assert (lengths_of(end), end.cut) == ([8, 8], 1)
    assert [trained(example) for example in end.examples] == ["two end", "three"]
    end = encode(7, "cut-end")
    assert [trained(example) for example in end.examples] == ["two"]
    assert end.problems == ["rows.jsonl:3: its 10 tokens cut to 7 leave nothing of the response."]

    with pytest.raises(RecordError, match="rows.jsonl:3: its 10 tokens are more than the limit of 8"):
        encode(8, "error")
    assert lengths_of(encode(10, "error")) == [8, 10]
    with pytest.raises(CourseError, match="too_long='cut': choose one of error, skip, cut-start, cut-end"):
        encode(8, "cut")


@pytest.mark.parametrize("too_long", ["skip", "cut-start", "cut-end"])
def test_limiting_later_is_the_same_as_limiting_at_once(tokenizer, too_long):
    tokenizer.chat_template = PLAIN
    records = [Record((ask("one " * n), reply("two " * n)), source=f"rows.jsonl:{n}") for n in range(1, 9)]
    whole = encode_records(records, tokenizer, too_long=too_long)
    for limit in (5, 8, 12, 16, 99):
        at_once = encode_records(records, tokenizer, too_long=too_long, max_length=limit)
        assert whole.within(limit, too_long) == at_once


def test_the_length_that_fits_by_hand():
    assert fitting_length(list(range(1, 101))) == 104  # 99 of 100 have at most 99 tokens, and 104 is 13 times 8
    assert fitting_length(list(range(1, 101)), 0.5) == 56
    assert fitting_length([5] * 999 + [5000]) == 8
    assert fitting_length([5, 5000], 1.0) == 5000
