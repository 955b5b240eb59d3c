"""What an honest submission must not lose before the judge: odd habits, other editors, slow but allowed answers."""

import nbformat
import pytest
from attacks.mini import submission, template
from IPython.core.inputtransformer2 import TransformerManager

from autograder.judging.checks import MOST_READ, as_python
from autograder.judging.judge import Judge
from autograder.rebuild import rebuild

BODY = "    return 2 * x\n"

ANSWERS = {
    "prints and warnings": "import sys, warnings\n\n\ndef double(x):\n    print('working', file=sys.stderr)\n"
    "    warnings.warn('careful')\n    print(x)\n" + BODY,
    "a progress bar": "import sys\n\n\ndef double(x):\n    for i in range(5): sys.stderr.write(f'\\r{i}')\n" + BODY,
    "Windows line ends": "def double(x):\r\n    return 2 * x\r\n",
    "text beyond ASCII": "def verdoppelt(größe):\n    '''Größe × 2 – 日本語 🎉'''\n    return größe * 2\n\n"
    "double = verdoppelt",
    "other names of parameters": "def double(number, *, again=2):\n    return again * number\n",
    "type hints": "from __future__ import annotations\n\n\ndef double(x: float) -> float:\n" + BODY,
    "a number of NumPy": "def double(x):\n    return np.float64(2 * x) if isinstance(x, float) else 2 * x\n",
    "Python's own library": "import functools, operator\n\n\ndouble = functools.partial(operator.mul, 2)\n",
    "a lambda": "double = lambda x: 2 * x\n",
    "a decorator": "import functools\n\n\n@functools.cache\ndef two():\n    return 2\n\n\n"
    "def double(x):\n    return two() * x\n",
    "a class that is called": "class Double:\n    def __call__(self, x):\n        return 2 * x\n\n\n"
    "double = Double()\n",
    "slow but allowed": "import time\n\n\ndef double(x):\n    time.sleep(0.1)\n" + BODY,
    "a try of one's own": f"def double(x):\n{BODY}\n\nprint(double(4))\nassert double(2) == 4\n",
    "a value at the end": f"def double(x):\n{BODY}\n\ndouble(4)\n",
    "an error behind the answer": f"def double(x):\n{BODY}\n\nundefined\n",
    "a line magic": f"%matplotlib inline\n%timeit 1\n\ndef double(x):\n{BODY}",
    "a timed cell": f"%%time\ndef double(x):\n{BODY}",
    "a command of the shell": f"!ls\nfound = !ls\n\ndef double(x):\n{BODY}",
    "a file in the scratch folder": "def double(x):\n    open('notes.txt', 'w').write('x')\n" + BODY,
    "threads": "from concurrent.futures import ThreadPoolExecutor\n\n\ndef double(x):\n"
    "    with ThreadPoolExecutor(2) as pool:\n        return 2 * next(pool.map(lambda y: y, [x]))\n",
}


def lost(whole):
    """The parts that did not get their points, and why."""
    with Judge(whole, seed=99) as judge:
        return {v.part.id: v.message for v in judge.verdicts() if v.points < v.part.points}


@pytest.mark.parametrize("habit", ANSWERS)
def test_an_answer_of_odd_habits_gets_all(habit):
    assert lost(submission({"double": ANSWERS[habit]}, seconds=20)) == {}


def test_a_cell_full_of_magic_commands_is_given_up_early(monkeypatch):
    passes = []
    once = lambda self, lines: (not passes.append(sum(map(len, lines))), lines)  # noqa: E731 - it stands for a method
    monkeypatch.setattr(TransformerManager, "do_one_token_transform", once)
    source = "%a\n" * 2000
    assert as_python(source) == source
    assert sum(passes) <= MOST_READ


def test_helpers_and_failed_cells_of_ones_own():
    mine = submission({"double": "def double(x):\n    return twice(x)\n"}, seconds=20)
    own = ["1 / 0", "def twice(x):\n    return 2 * x\n", "import a_module_that_nobody_has", "while True print"]
    for source in own:
        mine.cells.insert(1, nbformat.v4.new_code_cell(source))
    assert lost(rebuild(template(20), mine)) == {}


def test_another_kernel_and_an_old_format():
    mine = submission({}, seconds=20)
    mine.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
    old = nbformat.from_dict(nbformat.convert(mine, 3))
    assert lost(rebuild(template(20), nbformat.convert(old, 4))) == {}


def test_an_unwritten_part_costs_only_itself():
    assert list(lost(submission({"attend": "raise NotImplementedError"}, seconds=20))) == ["check-attend"]
