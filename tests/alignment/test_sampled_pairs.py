"""Pairs from a model's own answers: the draws, the file of samples, and which problems give no pair."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_lib.alignment.pairs import encode_pairs
from course_lib.alignment.reranking import Samples
from course_lib.alignment.sampled_pairs import (
    CheckedProblem,
    SampleFile,
    SamplingPlan,
    make_pairs,
    problem_ids,
    read_problems,
    sample_all,
    sample_answers,
)
from course_lib.data import read_records
from course_lib.data.judged import read_judged
from course_lib.errors import CourseError

PLAN = SamplingPlan("tiny", "word_problems", samples=4, max_new_tokens=4, template="instruction")


@pytest.fixture
def llama(model_folders):
    return AutoModelForCausalLM.from_pretrained(model_folders / "llama").eval()


def problems(count=5):
    """Answers with an even number of letters are right."""
    return [CheckedProblem(f"Which lamp is {n}?", lambda text: len(text) % 2 == 0, f"p:{n}") for n in range(count)]


def test_seed_and_problem_alone_decide_the_answers(llama, tokenizer):
    torch.manual_seed(0)
    found = sample_answers(llama, tokenizer, "Which lamp?", PLAN)
    torch.manual_seed(1)
    assert sample_answers(llama, tokenizer, "Which lamp?", PLAN) == found
    assert len(found) == 4
    assert len(set(found)) > 1
    assert sample_answers(llama, tokenizer, "Which wind?", PLAN) != found


def test_a_problem_is_put_to_the_model_as_dpo_trains_it(tokenizer):
    rows = [{"prompt": "Which lamp?", "chosen": "The first.", "rejected": "None."}]
    path_record = read_records_of(rows)
    (pair,) = encode_pairs(path_record, tokenizer, template="instruction").pairs
    assert problem_ids(tokenizer, "Which lamp?", "instruction") == pair["prompt"]


def read_records_of(rows):
    from course_lib.data.formats import parse_row

    return [record for row in rows for record in parse_row(row).records]


def test_samples_are_kept_and_an_interrupted_run_ends_the_same(llama, tokenizer, tmp_path):
    whole = SampleFile(tmp_path / "whole.jsonl", PLAN)
    whole.begin()
    groups = sample_all(llama, tokenizer, problems(), PLAN, whole)

    cut = SampleFile(tmp_path / "cut.jsonl", PLAN)
    cut.begin()
    sample_all(llama, tokenizer, problems(2), PLAN, cut)
    with cut.path.open("a") as file:
        file.write('{"problem": "Which la')  # killed while it wrote
    done = cut.go_on(problems())
    assert done == groups[:2]
    assert sample_all(llama, tokenizer, problems(), PLAN, cut, done) == groups
    assert cut.path.read_bytes() == whole.path.read_bytes()

    judged = read_judged(whole.path).answers
    assert len(judged) == sum(bool(answer.strip()) for each in groups for answer in each.answers)


def test_a_file_of_other_samples_is_not_gone_on_with(tmp_path):
    file = SampleFile(tmp_path / "samples.jsonl", PLAN)
    with pytest.raises(CourseError, match="nothing to resume"):
        file.go_on(problems())
    file.begin()
    file.add(Samples("Another?", ("1",), (True,)))
    with pytest.raises(CourseError, match="answers to other problems"):
        file.go_on(problems())
    other = SampleFile(file.path, SamplingPlan("tiny", "word_problems", samples=3, template="instruction"))
    with pytest.raises(CourseError, match="begun with samples 4, not 3"):
        other.go_on(problems())
    file.path.write_text("nothing\n")
    with pytest.raises(CourseError, match="not a file of samples"):
        file.go_on(problems())


GROUPS = [
    Samples("both", ("a", "b", "c", "a"), (True, False, False, True)),
    Samples("all right", ("a", "b"), (True, True)),
    Samples("all wrong", ("a", ""), (False, False)),
    Samples("wrong by being empty", ("a", ""), (True, False)),
]
NAMES = ["p:1", "p:2", "p:3", "p:4"]


def test_a_right_answer_stands_beside_a_wrong_one(tmp_path):
    made = make_pairs(GROUPS, NAMES)
    assert made.rows in ([{"prompt": "both", "chosen": "a", "rejected": wrong}] for wrong in "bc")
    assert made.without == {"no wrong answer": ["p:2", "p:4"], "no right answer": ["p:3"]}
    assert made.report() == [
        "1 pairs; 50.0% of the answers are right",
        "problems without a pair: 2 (no wrong answer): p:2, p:4",
        "problems without a pair: 1 (no right answer): p:3",
    ]
    made.write(tmp_path / "pairs.jsonl")
    (record,) = read_records(tmp_path / "pairs.jsonl").records
    assert (record.response, record.rejected) == (made.rows[0]["chosen"], made.rows[0]["rejected"])


def test_the_seed_decides_which_answers_meet():
    samples = [Samples("both", tuple("abcdef"), (True,) * 3 + (False,) * 3)]
    assert make_pairs(samples, ["p"], 1, seed=1).rows == make_pairs(samples, ["p"], 1, seed=1).rows
    assert len({json.dumps(make_pairs(samples, ["p"], 1, seed=seed).rows) for seed in range(9)}) > 1
    three = make_pairs(samples, ["p"], 5).rows
    assert len(three) == 3
    assert {row["chosen"] for row in three} == set("abc")
    assert {row["rejected"] for row in three} == set("def")
    with pytest.raises(CourseError, match="pairs_per_problem=0"):
        make_pairs(samples, ["p"], 0)


def test_problems_come_from_generators_and_from_records(tmp_path):
    found = read_problems(SamplingPlan("tiny", "word_problems", limit=3))
    assert [each.source for each in found] == ["train:0", "train:1", "train:2"]
    instructions = read_problems(SamplingPlan("tiny", "instructions", limit=3))
    assert not any(each.is_right("I cannot say.") for each in [*found, *instructions])

    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}) + "\n")
    (problem,) = read_problems(SamplingPlan("tiny", str(path)))
    assert problem.prompt == "2 + 3?"
    assert problem.is_right("I think #### 5")
    assert not problem.is_right("5 or 6")

    path.write_text(json.dumps({"instruction": "Say it.", "output": "It."}) + "\n")
    with pytest.raises(CourseError, match="no record with an answer that a program can check"):
        read_problems(SamplingPlan("tiny", str(path)))
    with pytest.raises(CourseError, match="no generated set of that name.*Did you mean word_problems"):
        read_problems(SamplingPlan("tiny", "word_problem"))


def write_problems(path, *numbers, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"{n} + 0?", "answer": f"#### {n}"} | more for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prompts_of(path, split="train"):
    return [each.prompt for each in read_problems(SamplingPlan("tiny", str(path), split=split))]


def test_held_out_problems_are_no_training_pairs(tmp_path):
    """GSM8K as the hub has it: pairs of its test part would make the test worthless."""
    write_problems(tmp_path / "hub" / "main" / "train-00000-of-00001.jsonl", 1, 2)
    write_problems(tmp_path / "hub" / "main" / "test-00000-of-00001.jsonl", 7, 8, 9)
    assert prompts_of(tmp_path / "hub") == ["1 + 0?", "2 + 0?"]
    assert prompts_of(tmp_path / "hub", "held_out") == ["7 + 0?", "8 + 0?", "9 + 0?"]
    assert prompts_of(tmp_path / "hub" / "main" / "test-00000-of-00001.jsonl") == ["7 + 0?", "8 + 0?", "9 + 0?"]

    write_problems(tmp_path / "plain" / "all.jsonl", 1, 2)
    assert prompts_of(tmp_path / "plain") == ["1 + 0?", "2 + 0?"]
    with pytest.raises(CourseError, match="no part that is held out"):
        prompts_of(tmp_path / "plain", "held_out")


def test_rows_that_say_themselves_that_they_are_held_out(tmp_path):
    write_problems(tmp_path / "rows.jsonl", 7, split="test")
    with pytest.raises(CourseError, match="All rows of .*rows.jsonl say that they are held out: --split held_out"):
        prompts_of(tmp_path / "rows.jsonl")
    assert prompts_of(tmp_path / "rows.jsonl", "held_out") == ["7 + 0?"]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"question": "1 + 0?", "answer": "#### 1", "split": "train"}) + "\n")
    assert prompts_of(tmp_path / "rows.jsonl") == ["1 + 0?"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 1}, "at least 2 answers"),
        ({"temperature": 0.0}, "without chance"),
        ({"temperature": float("nan")}, "temperature=nan is not possible"),
        ({"top_p": 0.0}, "top_p=0.0 is not possible"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"limit": 0}, "at least 1"),
        ({"template": "plain"}, "chat or instruction"),
    ],
)
def test_plans_that_are_not_possible_are_refused(settings, said):
    with pytest.raises(CourseError, match=said):
        SamplingPlan("tiny", "word_problems", **settings)
