"""A small judged assignment, so that a hostile submission is judged in a second: five parts, ten points."""

import copy

import nbformat

SETUP = """
import numpy as np

from autograder.checks import check_close, check_refused, check_same, result_of
from autograder.given import attention
from autograder.own import own_work


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


check_own = own_work(globals())
"""

HONEST = {
    "double": "def double(x):\n    return 2 * x\n",
    "scaled": (
        "def scaled(values, factor):\n"
        "    if factor == 0:\n        raise ValueError(f'the factor is {factor}')\n"
        "    return values * factor\n"
    ),
    "attend": (
        "def attend(q, k, v):\n"
        "    scores = q @ k.T / np.sqrt(q.shape[-1])\n"
        "    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))\n"
        "    return weights / weights.sum(axis=-1, keepdims=True) @ v\n"
    ),
    "heads": "def heads(q, k, v):\n    return attention(q, k, v, np.ones((q.shape[1], k.shape[1]), dtype=bool))\n",
    "counter": (
        "class Counter:\n"
        "    def __init__(self, start):\n        self.value = start\n\n"
        "    def add(self, number):\n        self.value += number\n        return self.value\n"
    ),
}

TESTS = {
    "double": """
# Hint: twice
check_close("double(3)", result_of(double, 3), 6)
check_same("double([1])", result_of(double, [1]), [1, 1])
### BEGIN HIDDEN TESTS
# Property: wrong for numbers that are not whole
for _x in draw(11, 5).tolist():
    check_close(f"double({_x})", result_of(double, _x), _x + _x)
### END HIDDEN TESTS
""",
    "scaled": """
check_close("scaled", result_of(scaled, np.arange(3.0), 2.0), [0.0, 2.0, 4.0])
check_refused("a factor of 0", lambda: scaled(np.ones(2), 0), "0")
### BEGIN HIDDEN TESTS
# Property: wrong for matrices
_m = draw(12, 3, 4)
check_close("scaled", result_of(scaled, _m, -1.5), _m * -1.5)
### END HIDDEN TESTS
""",
    "attend": """
check_own(attend, "attention")
_q, _k, _v = draw(1, 2, 4), draw(2, 3, 4), draw(3, 3, 4)
_see = np.ones((2, 3), dtype=bool)
check_close("attend", result_of(attend, _q, _k, _v), attention(_q[None], _k[None], _v[None], _see)[0])
### BEGIN HIDDEN TESTS
# Property: wrong for large scores
_q = 400 * draw(13, 2, 4)
check_close("attend", result_of(attend, _q, _k, _v), attention(_q[None], _k[None], _v[None], _see)[0])
### END HIDDEN TESTS
""",
    "heads": """
check_own(heads)
_q, _k, _v = draw(1, 4, 2, 4), draw(2, 2, 3, 4), draw(3, 2, 3, 4)
check_close("heads", result_of(heads, _q, _k, _v), attention(_q, _k, _v, np.ones((2, 3), dtype=bool)))
### BEGIN HIDDEN TESTS
# Property: wrong for one head
_q, _k, _v = draw(14, 1, 2, 4), draw(15, 1, 5, 4), draw(16, 1, 5, 4)
check_close("heads", result_of(heads, _q, _k, _v), attention(_q, _k, _v, np.ones((2, 5), dtype=bool)))
### END HIDDEN TESTS
""",
    "counter": """
_counter = Counter(3)
check_same("what add returns", _counter.add(4), 7)
check_same("the value afterwards", _counter.value, 7)
### BEGIN HIDDEN TESTS
# Property: wrong where two counters are used
_one, _two = Counter(0), Counter(10)
_one.add(1)
check_same("the other counter's value", _two.value, 10)
### END HIDDEN TESTS
""",
}

POINTS = {"double": 2, "scaled": 3, "attend": 2, "heads": 1, "counter": 2}
TOTAL = sum(POINTS.values())


def template(seconds=3):
    """The assignment with hidden tests and unwritten answers."""
    cells = [_cell("setup", SETUP, locked=True)]
    for part, points in POINTS.items():
        cells.append(nbformat.v4.new_markdown_cell(f"## {part}"))
        cells.append(_cell(part, "raise NotImplementedError", solution=True))
        cells.append(_cell(f"check-{part}", TESTS[part].strip(), grade=True, locked=True, points=points))
    about = {"judged": True, "seconds_per_cell": seconds}
    return nbformat.v4.new_notebook(cells=cells, metadata={"course": about})


def submission(answers, seconds=3):
    """The assignment with honest answers, and others to some parts.

    Args:
        answers: The others, by part.
        seconds: What a cell may take.
    """
    whole = copy.deepcopy(template(seconds))
    for cell in whole.cells:
        part = cell.metadata.get("nbgrader", {}).get("grade_id")
        if part in POINTS:
            cell.source = {**HONEST, **answers}[part]
    return whole


def _cell(name, source, **about):
    about = {"grade": False, "solution": False, "locked": False, "schema_version": 3} | about
    cell = nbformat.v4.new_code_cell(source.strip())
    cell.metadata["nbgrader"] = {"grade_id": name, **about}
    return cell
