"""Judged answers: the layouts that are read, what is refused, and generated ones that the exact verifiers confirm."""

import json
from random import Random

import pytest

from course_lib.data.generators import check_answer, check_instruction, instruction_set, word_problems
from course_lib.data.generators.judged import judged_answers, same_number, wrong_solution
from course_lib.data.judged import Judged, plain_solution, read_judged
from course_lib.errors import CourseError

PUBLISHED = {
    "question": "How many eggs are left?",
    "ground_truth": "There are 16 - 3 = <<16-3=13>>13 eggs.\nA: 13",
    "6b_finetuning": {"is_correct": False, "solution": "16 + 3 = <<16+3=19>>19\nA: 19"},
    "175b_finetuning": {"is_correct": True, "solution": "16 - 3 = <<16-3=13>>13\nA: 13"},
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_published_answers_of_models_to_gsm8k(tmp_path):
    reading = read_judged(write(tmp_path / "solutions.jsonl", PUBLISHED))
    assert [(each.author, each.correct) for each in reading.answers] == [
        ("reference", True),
        ("6b_finetuning", False),
        ("175b_finetuning", True),
    ]
    assert reading.answers[0].answer == "There are 16 - 3 = 13 eggs.\n#### 13"
    assert reading.answers[1].problem == "How many eggs are left?"
    assert str(reading) == "3 answers to 1 problems, 2 of them right; 0 rows malformed"


def test_one_answer_or_several_in_a_row(tmp_path):
    rows = [
        {"settings": {"samples": 2}},
        {"problem": "2 + 3", "answers": ["5", "", "6"], "correct": [True, False, False]},
        {"question": "2 + 4", "response": "6", "label": 1},
    ]
    found = read_judged(write(tmp_path / "samples.jsonl", *rows)).answers
    assert [(each.problem, each.answer, each.correct) for each in found] == [
        ("2 + 3", "5", True),
        ("2 + 3", "6", False),  # a verifier cannot read the empty one
        ("2 + 4", "6", True),
    ]
    assert found[2].source.endswith("samples.jsonl:3")


def test_a_row_says_what_it_is_for(tmp_path):
    row = {"problem": "2 + 3", "answer": "5", "correct": True}
    several = {"problem": "2 + 4", "answers": ["5", "6"], "correct": [False, True], "partition": "dev"}
    path = write(tmp_path / "answers.jsonl", row, row | {"split": "test"}, row | {"split": "best"}, several)
    assert [each.part for each in read_judged(path).answers] == ["", "test", "", "validation", "validation"]


def test_a_table_has_its_truth_as_text(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("problem,answer,correct\n2 + 3,5,True\n2 + 3,6,false\n")
    assert [each.correct for each in read_judged(path).answers] == [True, False]


def test_only_a_final_line_becomes_a_final_answer():
    assert plain_solution("A: see below\nB: 3\nA: 18\n") == "A: see below\nB: 3\n#### 18"
    assert plain_solution("A: 18 is wrong") == "A: 18 is wrong"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"problem": "2 + 3", "answer": "5"}, "no 'correct' or 'is_correct'"),
        ({"problem": "", "answer": "5", "correct": True}, "'problem' is empty"),
        ({"answer": "5", "correct": True}, "no 'problem' or 'question'"),
        ({"problem": "2 + 3", "answer": "5", "correct": "perhaps"}, "'correct' is 'perhaps'"),
        ({"problem": "2 + 3", "answer": 5, "correct": True}, "'answer' is of type int"),
        ({"problem": "2 + 3", "answers": ["5"], "correct": [True, False]}, "not a list of as many values"),
        ({"problem": "2 + 3", "answers": [5], "correct": [True]}, "expected texts"),
        (PUBLISHED | {"7b": {"solution": "5"}}, "'7b' lacks 'solution' or 'is_correct'"),
        ([1], "expected an object"),
    ],
)
def test_a_malformed_row_is_named_or_skipped(tmp_path, row, said):
    path = write(tmp_path / "answers.jsonl", {"problem": "1 + 1", "answer": "2", "correct": True}, row)
    with pytest.raises(CourseError, match=rf"answers.jsonl:2: .*{said}"):
        read_judged(path)
    reading = read_judged(path, malformed="skip")
    assert said in reading.problems[0]
    assert len(reading.answers) >= 1


def test_what_is_no_file_of_answers_is_refused(tmp_path):
    with pytest.raises(CourseError, match="There is no file"):
        read_judged(tmp_path / "none.jsonl")
    with pytest.raises(CourseError, match="no judged answer with text in it; . of its rows are malformed"):
        read_judged(write(tmp_path / "empty.jsonl", {"settings": {}}))
    with pytest.raises(CourseError, match="malformed='drop'"):
        read_judged(tmp_path / "none.jsonl", malformed="drop")


# --- generated ---


def test_the_exact_verifiers_confirm_every_generated_answer():
    items = {item["question"]: item for item in word_problems("train", 40)}
    for each in judged_answers("word_problems", "train", 40):
        assert check_answer(items[each.problem], each.answer) == float(each.correct)
    asked = {"\n\n".join(filter(None, (i["instruction"], i["input"]))): i for i in instruction_set("train", 60)}
    found = [each for each in judged_answers("instructions", "train", 60) if each.problem in asked]
    assert len(found) > 100
    assert all(check_instruction(asked[each.problem], each.answer) == each.correct for each in found)


@pytest.mark.parametrize("name", ["word_problems", "instructions"])
def test_generated_answers_come_in_pairs_and_again_the_same(name):
    found = judged_answers(name, "held_out", 20, seed=3)
    assert found == judged_answers(name, "held_out", 20, seed=3)
    assert found != judged_answers(name, "held_out", 20, seed=4)
    assert [each.correct for each in found] == [True, False] * 20
    assert len({each.problem for each in found}) == 20
    assert not {each.problem for each in found} & {each.problem for each in judged_answers(name, "train", 20, seed=3)}


def test_a_slip_is_carried_to_the_end():
    item = {
        "question": "Ann has 4 pens and buys 9. How many are there?",
        "answer": "13",
        "solution": "4 + 9 = 13 pens.\n#### 13",
        "source": "reasoning_gym/gsm_symbolic",
    }
    found = {wrong_solution(item, Random(seed)) for seed in range(30)}
    slips = [text for how, text in found if how == "slip"]
    assert slips
    for text in slips:
        result = text.rpartition(" ")[2]
        assert text == f"4 + 9 = {result} pens.\n#### {result}"
    assert {text for how, text in found if how == "step"} == {"4 + 9 = 13 pens.\n#### 4", "4 + 9 = 13 pens.\n#### 9"}


def test_numbers_are_compared_by_value_and_words_by_letter():
    assert same_number("1050", "so it is #### 1,050.0")
    assert not same_number("1050", "no idea")
    assert same_number("blue", "It is\n#### blue")
    assert not same_number("blue", "#### red")


def test_an_unknown_set_is_refused():
    with pytest.raises(CourseError, match="no generated answers 'word_problem'.*Did you mean"):
        judged_answers("word_problem")
    assert isinstance(judged_answers("instructions", size=1)[0], Judged)
