"""Points by property, objects beside the answers, and what a hostile answer makes of them: in the sandbox."""

import copy
import re

import pytest
from submissions import appending, filled

from autograder import course, notebook
from autograder.checks import Points
from autograder.judging.checks import checks, functions, worth
from autograder.judging.judge import Judge
from autograder.judging.results import explained, write_results
from autograder.rebuild import rebuild
from autograder.student.check import check

CELL = """_points = Points(shape=1, values=2)
one = 1
with _points("shape"):
    # Hint: look twice
    assert one == 1
    assert one != 2
with _points("values"):
    assert one == 2
### BEGIN HIDDEN TESTS
# Property: wrong when it is late
with _points("shape"):
    assert one == 3
### END HIDDEN TESTS
_points.earned()
"""


class TestCell:
    def test_blocks_are_taken_apart(self):
        found = [(check.property, check.hidden, check.note) for check in checks("x", CELL)]
        assert found == [
            ("", False, ""),
            ("", False, ""),
            ("shape", False, "look twice"),
            ("shape", False, "look twice"),
            ("values", False, "look twice"),
            ("shape", True, "wrong when it is late"),
        ]
        assert worth(CELL) == {"shape": 1, "values": 2}

    def test_in_a_kernel_the_cell_goes_on_and_ends_with_a_number(self, capsys):
        points = Points(shape=1, values=2, edge_cases=0.5)
        with points("values"):
            raise ValueError("no")
        with points("values"):
            raise ValueError("again")
        with points("shape"):
            pass
        assert points.earned() == 1.5
        assert capsys.readouterr().out == "values (2 of 3.5 points): no\n"

    def test_nothing_earned_raises_the_first_complaint(self):
        points = Points(shape=1, values=2)
        for name in ("values", "shape"):
            with points(name):
                raise KeyError(name)
        with pytest.raises(KeyError, match="values"):
            points.earned()


def judged(name, part, answer, more=""):
    """The verdict on one answer beside right ones, in the sandbox."""
    nb = filled(name, edit=lambda each, source: answer + more if each == part else source)
    whole = rebuild(course.find(name).read(), nb)
    with Judge(whole, seed=11) as judge:
        return judge.verdict(next(p for p in notebook.parts(whole) if p.id == f"check-{part}"))


COPIES = "def lora_parameters(self):\n    return [self.A.copy(), self.B.copy()]\n"
HANDED = {
    "by its name": "import course_lib.scratch.lora as l\ndef forward(self, x):\n"
    "    return l.LoRALinear.forward(self, x)\n",
    "of the package": "from course_lib import scratch\ndef forward(self, x):\n"
    "    return scratch.LoRALinear.forward(self, x)\n",
    "built at run time": "import importlib\ndef forward(self, x):\n"
    "    m = importlib.import_module('course_lib.' + 'scratch')\n    return getattr(m, 'LoRA' + 'Linear')(x)\n",
    "among loaded modules": "import sys\ndef forward(self, x):\n    for m in list(sys.modules.values()):\n"
    "        if hasattr(m, 'LoRALinear'):\n            return m.LoRALinear.forward(self, x)\n    raise KeyError\n",
    # without /proc, in which a walk takes all the time that the submission has
    "by its path": "import os\nfound = []\nfor place, folders, files in os.walk('/'):\n"
    "    if place in ('/proc', '/sys'):\n        folders.clear()\n"
    "    elif 'lora.py' in files and 'peft' not in place:\n        found.append(place + '/lora.py')\n"
    "def forward(self, x):\n    exec(open(found[0]).read(), globals())\n    return LoRALinear.forward(self, x)\n",
    "PEFT's": "import peft\ndef forward(self, x):\n    return peft.tuners.lora.Linear.forward(self, x)\n",
}


@pytest.mark.parametrize("how", HANDED)
def test_the_librarys_own_layer_is_not_there(how):
    assert judged("lora", "forward", HANDED[how]).points == 0


def test_what_runs_beside_the_answers_cannot_simply_be_replaced():
    forged = "\ndef names_of_parameters(layer):\n    return ['A', 'B']\n"
    forged += "def after_step(layer, steps):\n    return layer.A - steps[0], layer.B - steps[1]\n"
    forged += "def layer_with(*a, **k):\n    return None\n"
    assert judged("lora", "lora-parameters", COPIES, forged).points == 1  # the values are right, and copies
    assert (
        judged("lora", "lora-parameters", "def lora_parameters(self):\n    return [self.A, self.B]\n", forged).points
        == 2
    )


NAMES_NOTHING = {
    "datasets parse": "def parse(self, formatted):\n    formatted = 1\n",
    "datasets cut": "def cut(self, example):\n    example['input_ids'].clear()\n    return example\n",
    "datasets example": "class FinetuneDataset:\n    def __init__(self, data, tokenizer, max_length=128): pass\n"
    "    def example(self, record): pass\n",
    "datasets example, wrong parameters": "class FinetuneDataset:\n    def __init__(self, data, tokenizer): pass\n"
    "    def example(self): return {}\n",
    "finetuning clip": "def clip_grad_norm(): return 1\n",
    "merging merge": "def merge(self): return self.nothing\n",
}


@pytest.mark.parametrize("how", NAMES_NOTHING)
def test_what_is_said_names_no_helper_of_the_checks(how):
    """It is not among what the student has written: the message is about the answer, and says what its input was."""
    name, part = how.split(",")[0].split()
    verdict = judged(name, part, NAMES_NOTHING[how])
    said = explained(verdict)
    assert verdict.message
    cells = [cell for cell in course.find(name).read().cells if cell.metadata.get("course", {}).get("beside")]
    helpers = {helper for cell in cells for helper in functions(cell.source)}
    assert "parsed" in helpers or len(helpers) > 8
    for helper in helpers:
        assert not re.search(rf"\b{helper}\(|\b{helper} (returned|changed)", said), said
    assert "beside" not in said


def test_the_input_that_is_told_is_the_one_that_was_given():
    verdict = judged("datasets", "cut", NAMES_NOTHING["datasets cut"])
    assert verdict.called.startswith("the input was 16, {'input_ids': [10, ")


def test_a_method_is_told_by_its_name():
    answer = "class InstructionFormatter:\n    def format(self, a, b, c):\n        return a\n"
    assert judged("datasets", "format", answer).called.startswith("the call was format('Translate to French', ")


def test_attributes_that_lie_do_not_help():
    lying = (
        "class Zeros:\n    def __getattr__(self, name):\n        return np.zeros((5, 7))\n\n"
        "LoRALinear = Zeros\n\ndef merged_weight(self):\n    return np.zeros((5, 7))\n"
    )
    assert judged("lora", "merged-weight", lying).points == 0


def test_a_process_that_ends_keeps_the_points_before():
    ends = "import os\ndef loss_gradient(logits, targets):\n    if np.isnan(logits).any():\n        os._exit(3)\n"
    right = "    z = np.exp(logits - logits.max(-1, keepdims=True))\n    z = z / z.sum(-1, keepdims=True)\n"
    right += "    for place in np.ndindex(targets.shape):\n        z[place][targets[place]] -= 1\n"
    right += "        if targets[place] == IGNORE:\n            z[place] = 0\n"
    right += "    return z / (targets != IGNORE).sum()\n"
    found = judged(
        "sft",
        "gradient",
        ends + right.replace("z[place][targets[place]] -= 1", "z[place][max(0, targets[place])] -= 1"),
    )
    assert (found.points, found.part.points) == (2, 3)
    assert "edge cases (1 of 3 points): its process ended with status 3" in found.message


def test_partial_points_are_nbgraders_partial_score():
    from nbgrader.utils import determine_grade

    nb = copy.deepcopy(filled("lora", answers=[]))
    whole = rebuild(course.find("lora").read(), nb)
    part = next(p for p in notebook.parts(whole) if p.id == "check-lora-parameters")
    cell = next(c for c in whole.cells if notebook.grade_id(c) == part.id)
    with Judge(
        rebuild(course.find("lora").read(), filled("lora", edit=lambda n, s: COPIES if n == "lora-parameters" else s))
    ) as judge:
        verdict = judge.verdict(part)
    write_results(whole, [verdict])
    assert determine_grade(cell) == (1, 2)
    assert "not copies (1 of 2 points)" in cell.outputs[0].text


def test_a_helper_of_ones_own_may_have_the_name_of_a_given_one(tmp_path):
    nb = filled("sft", edit=appending("render", "def check_close(*a):\n    return 0\ndef run_loss():\n    return 1\n"))
    path = tmp_path / "sft.ipynb"
    notebook.write(nb, path)
    assert not [o.message for o in check(path) if o.message]
