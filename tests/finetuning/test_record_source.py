"""Records as a training source: the test part stays out, lengths are chosen knowingly, nothing is lost in silence."""

import gzip
import json

import pytest
from record_rows import write

from course_lib.errors import CourseError
from course_lib.finetuning.settings import Settings
from course_lib.finetuning.source import SourceOptions
from course_lib.finetuning.sources import check_source, read_source


def rows(name, count, words=1):
    return [{"instruction": f"{name} {n}", "input": "", "output": "lamp " * words + str(n)} for n in range(count)]


def texts(tokenizer, examples):
    return [tokenizer.decode(example["input_ids"]) for example in examples]


def read(path, tokenizer, *arguments, **options):
    return read_source(str(path), tokenizer, *arguments, **options)


# --- parts ---

LAYOUTS = {
    "the hub's": ["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"],
    "HH-RLHF's": ["harmless-base/train.jsonl.gz", "harmless-base/test.jsonl.gz"],
    "a subfolder": ["sub/train.jsonl", "sub/test.jsonl"],
    "the top": ["train.json", "test.json"],
    "folders": ["train/a.jsonl", "test/a.jsonl"],
    "prefixes": ["train_sft.jsonl", "eval_sft.jsonl"],
    "suffixes": ["gsm8k_train.jsonl", "gsm8k_held_out.jsonl"],
    "one word": ["trainset.jsonl", "testset.jsonl"],
    "one without a part": ["rows.jsonl", "dev.jsonl"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_held_out_parts_are_evaluated_and_never_trained_on(tmp_path, tokenizer, layout):
    for name, part in zip(LAYOUTS[layout], ("TRAIN", "TEST"), strict=True):
        path, some = write(tmp_path / name, []), rows(part, 10)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, some)).encode()))
        else:
            write(path, some)
    source = read(tmp_path, tokenizer)
    assert (len(source.train), len(source.held_out)) == (10, 10)
    assert all("TRAIN" in text for text in texts(tokenizer, source.train))
    assert all("TEST" in text for text in texts(tokenizer, source.held_out))
    train, held_out = LAYOUTS[layout]
    assert source.notes[0] == f"train: {train}"
    assert source.notes[1].endswith(f"): {held_out}")


def test_what_is_not_read_is_named(tmp_path, tokenizer):
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "solutions.jsonl"):
        write(tmp_path / name, rows(name.upper(), 4))
    (tmp_path / "README.md").write_text("x")
    source = read(tmp_path, tokenizer)
    assert source.notes == (
        "train: train.jsonl",
        "held out (validation): valid.jsonl",
        "not read: README.md, solutions.jsonl, test.jsonl",
    )
    assert all("VALID" in text for text in texts(tokenizer, source.held_out))


def test_a_file_that_is_named_is_trained_on_whatever_its_name(tmp_path, tokenizer):
    source = read(write(tmp_path / "test.jsonl", rows("TEST", 10)), tokenizer)
    assert (len(source.train), len(source.held_out), source.notes) == (9, 1, ("held out: the last 1 of 10 records",))
    with pytest.raises(CourseError, match="has no training part: test.jsonl is held out"):
        read(tmp_path, tokenizer)


def test_rows_that_say_themselves_that_they_are_held_out(tmp_path, tokenizer):
    marked = [{**row, "split": split} for split in ("train", "validation", "test") for row in rows(split.upper(), 5)]
    source = read(write(tmp_path / "rows.jsonl", marked), tokenizer)
    assert (len(source.train), len(source.held_out)) == (5, 5)
    assert all("TRAIN" in text for text in texts(tokenizer, source.train))
    assert source.notes == ("held out (validation): 5 rows that say so", "not used: 5 rows that say 'test'")
    write(tmp_path / "folder" / "train.jsonl", marked)
    write(tmp_path / "folder" / "dev.jsonl", rows("DEV", 2))
    source = read(tmp_path / "folder", tokenizer)
    assert all("DEV" in text for text in texts(tokenizer, source.held_out))
    assert all("TRAIN" in text for text in texts(tokenizer, source.train))
    with pytest.raises(CourseError, match="all of its rows say that they are held out"):
        read(write(tmp_path / "tests.jsonl", marked[10:]), tokenizer)


# --- lengths ---


@pytest.fixture
def unequal(tmp_path):
    """97 short records and 3 long ones, the long ones first."""
    return write(tmp_path / "rows.jsonl", [*rows("LONG", 3, 60), *rows("SHORT", 97)])


def test_the_default_length_fits_the_records(unequal, tokenizer, tmp_path):
    source = read(unequal, tokenizer, template="instruction")
    longest = max(len(example["input_ids"]) for example in source.train)
    assert len(source.train) == 90  # all that are not held out, the long ones too: they are 3 % of them
    assert longest <= source.seq_len < longest + 8
    assert read(unequal, tokenizer, positions=64).seq_len == 64
    assert Settings().seq_len is None


def test_it_is_said_what_share_is_too_long_and_which_length_would_fit(unequal, tokenizer):
    source = read(unequal, tokenizer, 64)
    assert len(source.train) == 87
    [told] = [note for note in source.notes if "have more than" in note]
    assert told.startswith("3 of 90 records (3.3%) have more than 64 tokens and are left out (--too-long cut-start or")
    fitting = int(told.split("--seq-len ")[1].split()[0])
    assert told.endswith(f"; --seq-len {fitting} fits 99% of them")
    assert not [note for note in read(unequal, tokenizer, fitting).notes if "have more than" in note]


def test_cut_at_either_end_or_refused(unequal, tokenizer):
    """The response of a long record does not fit into 64 tokens, so a cut start leaves nothing of the question."""
    start = read(unequal, tokenizer, 64, too_long="cut-start")
    assert len(start.train) == 90
    assert texts(tokenizer, start.train[:1])[0].rstrip().endswith("lamp 0<eos>")
    assert any("lose their beginning" in note for note in start.notes)
    end = read(unequal, tokenizer, 64, too_long="cut-end")
    assert texts(tokenizer, end.train[:1])[0].startswith("### Instruction:\nLONG 0")
    assert any("lose their end" in note for note in end.notes)
    with pytest.raises(CourseError, match="3 of 90 records .* more than 64 tokens, which --too-long error does not"):
        read(unequal, tokenizer, 64, too_long="error")
    assert len(read(unequal, tokenizer, too_long="error").train) == 90
    with pytest.raises(CourseError, match="leaves a response within 4 tokens: 90 of 90 records"):
        read(unequal, tokenizer, 4, too_long="cut-end")


def test_documents_that_lose_their_end_are_counted(tmp_path, tokenizer):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(["lamp " * 50, *(f"lamp {n}" for n in range(19))]))
    source = read(path, tokenizer, 16, by_document=True)
    assert source.notes[0].startswith("1 of 18 documents (5.6%) have more than 16 tokens and lose their end; --seq-len")
    assert max(len(example["input_ids"]) for example in source.train) == 16
    assert len(read(path, tokenizer, 16, by_document=True, too_long="skip").train) == 17
    with pytest.raises(CourseError, match="1 of 18 documents"):
        read(path, tokenizer, 16, by_document=True, too_long="error")


# --- what is left out ---


def test_malformed_rows_and_unused_fields_are_in_the_notes(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", [{**row, "rating": 5} for row in rows("A", 10)])
    path.write_text(path.read_text() + "\n{broken")
    source = read(path, tokenizer)
    assert f"malformed rows left out: 1, such as {path}:11: not JSON" in source.notes[1]
    assert source.notes[2] == "fields not used: rating (10)"
    pairs = [{"prompt": f"Q {n}", "chosen": "A", "rejected": "B"} for n in range(10)]
    source = read(write(tmp_path / "pairs.jsonl", pairs), tokenizer)
    assert source.notes[1] == "rejected answers not used: 9; the chosen ones are trained"


def test_what_is_lost_of_the_held_out_part_is_said(tmp_path, tokenizer):
    write(tmp_path / "train.jsonl", rows("TRAIN", 10))
    write(tmp_path / "test.jsonl", [*rows("TEST", 3), *rows("TEST", 2, words=200), {"title": "x"}])
    notes = read(tmp_path, tokenizer, 64).notes
    assert any(note.startswith("malformed held-out rows: 1, such as") for note in notes)
    assert "held-out records left out, too long or unusable: 2 of 5" in notes


def test_one_record_that_the_template_refuses_is_left_out_and_named(tmp_path, tokenizer):
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    chats = [
        {"messages": [{"role": "user", "content": f"Q {n}"}, {"role": "assistant", "content": "A"}]} for n in range(9)
    ]
    chats[3]["messages"].insert(0, {"role": "user", "content": "Twice"})
    path = write(tmp_path / "rows.jsonl", chats)
    source = read(path, strict)
    assert (len(source.train), len(source.held_out)) == (7, 1)
    refused = f"{path}:4: The tokenizer's chat template refuses the conversation: roles must alternate"
    assert f"records left out: 1, such as {refused}" in source.notes
    with pytest.raises(CourseError, match="No record of .* can be used: .*rows.jsonl:1: The tokenizer's chat template"):
        read(write(path, [chats[3]] * 4), strict)
    with pytest.raises(CourseError, match="No held-out record of .* can be used: .*rows.jsonl:9: The tokenizer's chat"):
        read(write(path, [*chats[:3], *chats[4:], chats[3]]), strict)
    long = {"messages": [{"role": "user", "content": "Q " * 90}, {"role": "assistant", "content": "A"}]}
    with pytest.raises(CourseError, match="No held-out record of .* within 32 tokens: give a larger --seq-len"):
        read(write(path, [*chats[:3], long]), strict, 32)


def test_the_number_of_tokens_is_not_said_twice(unequal, tokenizer):
    source = read(unequal, tokenizer)
    assert f"{source.tokens:,}" not in source.what


def test_keys_can_be_mapped_and_tables_are_read(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    path.write_text("ask,say\n" + "\n".join(f"question {n},answer {n}" for n in range(10)))
    source = read(path, tokenizer, map="prompt=ask,response=say")
    assert "answer 0" in texts(tokenizer, source.train)[0]
    with pytest.raises(CourseError, match="no known format has the keys 'ask', 'say'"):
        read(path, tokenizer)
    assert SourceOptions().map is None


# --- what cannot be a source is told at once ---


def test_a_source_that_is_none_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "book.pdf").write_text("x")
    for name, said in (
        ("nots.txt", "There is no corpus .* Did you mean .*notes.txt"),
        ("nots.jsonl", "There is no file of records .*nots.jsonl"),
        ("book.pdf", "cannot be trained on as it is: save it as plain text"),
    ):
        with pytest.raises(CourseError, match=said):
            check_source(str(tmp_path / name))
    with pytest.raises(CourseError, match="Did you mean tinystories"):
        check_source("tinystory")
    with pytest.raises(CourseError, match="Did you mean keepers_log"):
        check_source("keeper_log")
    with pytest.raises(CourseError, match="There is no format 'chatt'"):
        check_source("keepers_log", "chatt")
    with pytest.raises(CourseError, match="is not of the form"):
        check_source("keepers_log", map="prompt")
    with pytest.raises(CourseError, match="has no file that ends with"):
        check_source(str(tmp_path))
    write(tmp_path / "test.jsonl", rows("TEST", 2))
    with pytest.raises(CourseError, match="has no training part"):
        check_source(str(tmp_path))
    check_source(str(tmp_path / "notes.txt"))
    check_source("wikitext2")
