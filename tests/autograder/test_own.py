"""An answer that hands its work to the library is refused in one sentence; an honest one never is."""

import re

import pytest

from autograder import course, notebook
from autograder.own import own_work
from autograder.recognise import defined_in

FIRST_CELL = """
import numpy as np
from course_lib import scratch
import course_lib.scratch as _reference
from course_lib.scratch import Tensor

def helper(x):
    return _reference.softmax(Tensor(x)).data

def _library_answer(x):
    return _reference.softmax(Tensor(x)).data

def check_close(got): ...
"""

OWN = {
    "plain": "def answer(x):\n    return np.exp(x) / np.exp(x).sum()",
    "uses what is given": "def answer(x):\n    return helper(x) + Tensor(x).data",
    "an attribute called like a function of the library": "def answer(x):\n    return x.softmax(x.scratch)",
    "a helper, a class and recursion": (
        "def more(x):\n    return answer(x - 1)\n"
        "class Box:\n    def get(self):\n        return more(3)\n"
        "def answer(x):\n    return Box().get() if x else 0"
    ),
    "its own local names": "def answer(x):\n    scratch = sum = x\n    return scratch + sum",
}

BORROWED = {
    "by the module": ("def answer(x):\n    return scratch.softmax(x)", "course_lib.scratch"),
    "by the checks' own module": ("def answer(x):\n    return _reference.softmax(x)", "course_lib.scratch"),
    "by an import inside": (
        "def answer(x):\n    from course_lib.scratch import softmax\n    return softmax(x)",
        "course_lib",
    ),
    "by an import above": (
        "from course_lib.scratch import softmax\ndef answer(x):\n    return softmax(x)",
        r"course_lib\.scratch\.functional\.softmax",
    ),
    "under its name": ("from course_lib.scratch import softmax as answer", "softmax"),
    "through a helper": ("def more(x):\n    return scratch.gelu(x)\ndef answer(x):\n    return more(x)", "course_lib"),
    "in an inner function": ("def answer(x):\n    return [scratch.gelu(i) for i in x]", "course_lib"),
    "in a method": ("class Box:\n    def go(self):\n        scratch\ndef answer(x):\n    return Box()", "course_lib"),
    "by inheritance": ("class Box(Tensor):\n    pass\ndef answer(x):\n    return Box(x)", "Tensor"),
    "by what another assignment is given": (
        "def answer(x):\n    from autograder.given import quantized\n    return quantized(x)",
        r"autograder\.given",
    ),
    "under another name": (
        "from autograder.given import quantized as mine\ndef answer(x):\n    return mine(x)",
        r"autograder\.given\.quantized",
    ),
    "by a function of the checks": ("def answer(x):\n    return _library_answer(x)", "course_lib"),
}


def checked(answer, *forbidden):
    """check_own on the answer, as in a notebook whose first cell is FIRST_CELL."""
    names = {"__name__": "__main__"}
    exec(FIRST_CELL, names)
    check_own = own_work(names)
    exec(answer, names)
    check_own(names["answer"], *forbidden)


@pytest.mark.parametrize("answer", OWN.values(), ids=OWN)
def test_own_work_passes(answer):
    checked(answer)


@pytest.mark.parametrize(("answer", "named"), BORROWED.values(), ids=BORROWED)
def test_the_librarys_work_is_named(answer, named):
    with pytest.raises(AssertionError, match=rf"hands its work to .*{named}.*: write it yourself"):
        checked(answer)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("def check_close(got): return True", "check_close of the first cell was replaced"),
        ("np = 3", "np of the first cell was replaced"),
        ("sum = 0", "gives Python's sum another meaning"),
    ],
)
def test_names_that_the_checks_need(cell, said):
    with pytest.raises(AssertionError, match=said):
        checked(f"{cell}\ndef answer(x):\n    return x")


def test_a_helper_that_is_only_for_other_parts():
    with pytest.raises(AssertionError, match=r"answer hands its work to course_lib\.scratch"):
        checked("def answer(x):\n    return helper(x)", "helper")


def test_numpys_comparisons_must_be_numpys(monkeypatch):
    import numpy as np

    monkeypatch.setattr(np, "allclose", lambda *_: True)
    with pytest.raises(AssertionError, match=r"np\.allclose was replaced"):
        checked("def answer(x):\n    return x")


@pytest.mark.parametrize("name", sorted(course.assignments()))
def test_every_numpy_part_asks_about_its_own_answer(name):
    """course_lib.scratch has no version of PyTorch's parts; inject_lora may use the library's layers, and says so."""
    defined = set()
    for cell in course.find(name).read().cells:
        if cell.source.startswith("# The same in PyTorch"):
            break
        if notebook.is_solution(cell) and cell.cell_type == "code":
            defined = defined_in(cell.source)
        elif notebook.is_test(cell) and notebook.grade_id(cell) != "check-inject-lora":
            asked = re.search(r"check_own\(\s*(\w+)", cell.source)  # its names may stand on lines of their own
            assert asked, notebook.grade_id(cell)
            assert asked[1] in defined, notebook.grade_id(cell)
