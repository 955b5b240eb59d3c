"""A class that hands in the small judged assignment of the attacks, and what its gradebook holds."""

import sqlite3
import subprocess
import sys

import nbformat
from attacks.cases import CASES
from attacks.mini import HONEST, POINTS, submission, template

from autograder import notebook
from autograder.course import Assignment

NAME = "mini"
SECONDS = 3  # for a cell
HOSTILE = ("exits", "forgeries", "liars", "patches", "reading", "network", "numbers", "guesses", "mutations", "texts")
RUN = (
    "import sys\nfrom pathlib import Path\nfrom autograder.course import Assignment\n"
    "from autograder.grading.collect.submissions import find_submissions\n"
    "from autograder.grading.run.grade import grade\n"
    "state = Path(sys.argv[1])\n"
    "mini = Assignment('mini', state / 'source/mini/mini.ipynb')\n"
    "found = find_submissions(mini, state / 'submitted')\n"
    "grade(mini, found, state, jobs=int(sys.argv[2]), say=lambda line: print(line, flush=True))\n"
    # What the kernel says of a process counts the one that started it as well: a large one, where that is pytest.
    "import re, resource\n"
    "own = int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    "print('peak', max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024)\n"
)
BOOK = """
SELECT student.id, base_cell.name, grade.auto_score, grade.manual_score, grade.needs_manual_grade
FROM grade JOIN base_cell ON grade.cell_id = base_cell.id
JOIN submitted_notebook ON grade.notebook_id = submitted_notebook.id
JOIN submitted_assignment ON submitted_notebook.assignment_id = submitted_assignment.id
JOIN student ON submitted_assignment.student_id = student.id
"""


def new_course(folder):
    """A course with the assignment's source."""
    source = template(SECONDS)
    source.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "source" / NAME / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(source, path)
    return Assignment(NAME, path)


def hand_in(course, student, answers):
    """A submission with honest answers, and others to some parts."""
    path = course / "submitted" / student / NAME / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = submission(answers, SECONDS)
    for cell in whole.cells:
        if notebook.is_test(cell):
            cell.source = cell.source.split("### BEGIN HIDDEN TESTS")[0].strip()
    nbformat.write(whole, path)


def students(count):
    """Names, answers and deserved points of a class: of three, one is honest, one fails a part, one is hostile."""
    parts = sorted(HONEST)
    cases = [case for kind in HOSTILE for case in CASES[kind].values()]
    for number in range(count):
        answers = {}
        if number % 3 == 1:
            answers = {parts[number % len(parts)]: "pass\n"}
        elif number % 3 == 2:
            case = cases[(7 * number) % len(cases)]
            answers = {part: source.replace("{course}", "/nowhere") for part, source in case.items()}
            answers = {part: source.replace("{{", "{").replace("}}", "}") for part, source in answers.items()}
        lost = set(answers) - ({"heads"} if number % 3 == 2 else set())  # there an attack is only prepared
        yield f"student{number:03}", answers, {f"check-{p}": 0 if p in lost else n for p, n in POINTS.items()}


def start(course, jobs=2):
    """Grade it in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", RUN, str(course), str(jobs)], stdout=subprocess.PIPE, text=True)


def book(course):
    """What the gradebook holds, in an order of its own."""
    connection = sqlite3.connect(course / "gradebook.db")
    rows = connection.execute(BOOK).fetchall()
    connection.close()
    assert len(rows) == len(set(rows))
    return sorted(rows)
