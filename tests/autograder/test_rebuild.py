"""A submission is only its answers: tests, order and points come from the release, whatever an editor did to it."""

import copy
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from submissions import bare, filled, put, released, replacing, split

from autograder import course, notebook
from autograder.rebuild import answers, rebuild
from autograder.recognise import assignment_of
from autograder.student.release import nbgrader


@pytest.fixture
def template():
    return released("datasets")


def sources(nb):
    """The cells' sources by grade id; of own cells, under None, a list."""
    found = {None: []}
    for cell in nb.cells:
        name = notebook.grade_id(cell)
        if name is None and cell.cell_type == "code":
            found[None].append(cell.source)
        elif name is not None:
            assert name not in found
            found[name] = cell.source
    return found


class TestAnswers:
    def test_an_untouched_release_is_itself(self, template):
        assert [c.source for c in rebuild(template, template).cells] == [c.source for c in template.cells]

    def test_they_survive_deleted_duplicated_edited_and_moved_tests(self, template):
        tampered = filled()
        for cell in tampered.cells:
            if notebook.is_test(cell):
                cell.source, cell.metadata.nbgrader.points = "pass", 1000
        tests = [cell for cell in tampered.cells if notebook.is_test(cell)]
        tampered.cells.remove(tests[0])
        tampered.cells.append(copy.deepcopy(tests[1]))
        tampered.cells.reverse()
        whole, right = rebuild(template, tampered), sources(filled())
        assert [notebook.grade_id(c) for c in whole.cells] == [notebook.grade_id(c) for c in template.cells]
        for ours, original in zip(whole.cells, template.cells, strict=True):
            assert ours.metadata == original.metadata
            expected = right[notebook.grade_id(ours)] if notebook.is_solution(ours) else original.source
            assert ours.source == expected

    def test_own_cells_stay_where_they_were(self, template):
        extended = copy.deepcopy(template)
        at = next(i for i, cell in enumerate(extended.cells) if notebook.grade_id(cell) == "parse")
        extended.cells.insert(at, nbformat.v4.new_code_cell("helper = 1"))
        whole = rebuild(template, extended)
        found = [cell.source for cell in whole.cells]
        names = [notebook.grade_id(cell) for cell in whole.cells]
        assert names.index("check-format") < found.index("helper = 1") < names.index("parse")

    def test_code_without_a_grade_id_is_the_students_where_they_have_it(self, template):
        """Such as nbgrader's header, which asks for a name: a test may look at it, and nbgrader takes the student's."""
        header, given = nbformat.v4.new_code_cell('NAME = ""'), nbformat.v4.new_code_cell("print(1)")
        whole = copy.deepcopy(template)
        whole.cells = [header, *whole.cells[:3], given, *whole.cells[3:]]
        assert [c.source for c in rebuild(whole, whole).cells] == [c.source for c in whole.cells]
        answered = copy.deepcopy(whole)
        answered.cells[0].source = 'NAME = "Ada"'
        assert sources(rebuild(whole, answered))[None] == ['NAME = ""', 'NAME = "Ada"', "print(1)"]
        assert sources(rebuild(whole, template))[None] == ['NAME = ""', "print(1)"]

    def test_text_below_a_task_is_kept(self, template):
        whole = copy.deepcopy(template)
        task = nbformat.v4.new_markdown_cell("## State it", metadata={"nbgrader": {"grade_id": "task", "task": True}})
        whole.cells = [*whole.cells, task, nbformat.v4.new_markdown_cell("The end.")]
        answered = copy.deepcopy(whole)
        answered.cells[-1:-1] = [nbformat.v4.new_markdown_cell("So it is."), nbformat.v4.new_code_cell("1 + 1")]
        assert [c.source for c in rebuild(whole, answered).cells[-4:]] == [
            "## State it",
            "So it is.",
            "1 + 1",
            "The end.",
        ]

    def test_the_submission_is_not_changed(self, template):
        submission = bare(filled())
        before = copy.deepcopy(submission)
        rebuild(template, submission)
        assert submission == before


class TestSplitCells:
    """JupyterLab's Split Cell keeps the metadata: two cells with one id."""

    @pytest.mark.parametrize("at", ["    order = ", "    return [", "    ### nothing", "def shuffled"])
    def test_they_are_put_together(self, template, at):
        whole = filled(edit=replacing("shuffled", "    order = ", "    ### nothing\n    order = "))
        found = rebuild(template, split(copy.deepcopy(whole), "shuffled", at))
        assert sources(found)["shuffled"].lstrip("\n") == sources(whole)["shuffled"]
        assert sources(found)[None] == []

    def test_three_pieces(self, template):
        nb = split(split(filled(), "shuffled", "    order"), "shuffled", "    return")
        found = sources(rebuild(template, nb))
        assert found["shuffled"].startswith("def shuffled_batches")
        assert "    order = np" in found["shuffled"]

    def test_a_copy_behind_the_answer_counts_as_it_does_in_the_students_kernel(self, template):
        nb = filled()
        at = next(i for i, cell in enumerate(nb.cells) if notebook.grade_id(cell) == "shuffled")
        second = copy.deepcopy(nb.cells[at])
        second.source = "shuffled_batches = None"
        nb.cells.insert(at + 1, second)
        names = {}
        exec("import numpy as np\n" + sources(rebuild(template, nb))["shuffled"], names)
        assert names["shuffled_batches"] is None

    def test_a_piece_with_a_cell_magic_stays_a_cell(self, template):
        nb = filled(edit=replacing("shuffled", "def shuffled", "x = 1\n%%time\ndef shuffled"))
        found = sources(rebuild(template, split(nb, "shuffled", "%%time")))
        assert found[None] == [cell for cell in found[None] if cell.startswith("%%time\ndef shuffled")]

    def test_editors_that_split_without_the_metadata(self, template):
        nb = split(filled(), "shuffled", "    return [", keep_metadata=False)
        assert sources(rebuild(template, nb)) == sources(rebuild(template, filled()))

    def test_an_indented_cell_of_ones_own_is_left_alone(self, template):
        nb = split(filled(), "shuffled", "    return [", keep_metadata=False)
        rest = next(cell for cell in nb.cells if cell.id.endswith("-rest"))
        rest.source = "  print(1)"  # IPython takes the indentation away
        assert sources(rebuild(template, nb))[None] == ["  print(1)"]


class TestLostMetadata:
    """Some editors drop the metadata of cells: the text says which is which."""

    def test_of_all_cells(self, template):
        assert sources(rebuild(template, bare(filled()))) == sources(rebuild(template, filled()))

    def test_of_a_notebook_that_was_laid_out_anew(self, template):
        nb = bare(filled())
        for cell in nb.cells:
            if "check_" in cell.source:
                cell.source = "# laid out anew\n" + cell.source.replace("    ", "        ")
        found = sources(rebuild(template, nb))
        assert found[None] == []

    def test_of_one_answer(self, template):
        nb = filled()
        cell = next(cell for cell in nb.cells if notebook.grade_id(cell) == "cut")
        cell.metadata = nbformat.from_dict({})
        assert sources(rebuild(template, nb)) == sources(rebuild(template, filled()))

    def test_an_answer_in_several_cells(self, template):
        helper = "def helper(x):\n    return x\n"
        nb = split(filled(edit=replacing("cut", "def cut", helper + "def cut")), "cut", "def cut")
        found = sources(rebuild(template, bare(nb)))
        assert found["cut"].startswith("def cut")
        assert [source.strip() for source in found[None]] == [helper.strip()]

    def test_an_answer_that_was_merged_into_another_cell_is_not_overwritten(self, template):
        """Merge Cells keeps one cell's metadata: the other's unwritten form must not come behind the answer."""
        nb = filled()
        cells = {notebook.grade_id(cell): cell for cell in nb.cells}
        cells["shuffled"].source += "\n\n\n" + cells["grouped"].source
        nb.cells.remove(cells["grouped"])
        found = sources(rebuild(template, nb))
        assert "def length_grouped_batches" in found["shuffled"]
        assert found["grouped"] == ""

    def test_an_answer_that_was_deleted_is_unwritten(self, template):
        """Other parts rely on the class that Part 3 begins."""
        nb = filled()
        nb.cells = [cell for cell in nb.cells if notebook.grade_id(cell) != "example"]
        assert "NotImplementedError" in sources(rebuild(template, nb))["example"]


class TestWhichAssignment:
    @pytest.mark.parametrize("name", sorted(course.assignments()))
    @pytest.mark.parametrize("lose", [lambda nb: nb, bare])
    def test_each_is_known(self, name, lose):
        known = course.assignments().values()
        assert assignment_of(lose(filled(name)), known).name == name
        assert assignment_of(lose(filled(name, answers=[])), known).name == name

    def test_another_notebook_is_none(self):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("def forward(self, x):\n    return x")])
        assert assignment_of(nb, course.assignments().values()) is None

    def test_no_other_source_is_read_where_the_likeliest_has_all_its_cells(self, tmp_path):
        others = course.Assignment("broken", tmp_path / "absent.ipynb")
        right = course.find("lora")
        assert assignment_of(filled("lora"), [right, others]) == right
        with pytest.raises(FileNotFoundError):
            assignment_of(filled("datasets"), [right, others])
        assert assignment_of(nbformat.v4.new_notebook(), course.assignments().values()) is None

    def test_a_few_of_the_cells_are_enough_with_their_ids(self):
        nb = filled()
        nb.cells = [cell for cell in nb.cells if notebook.grade_id(cell) in ("cut", "check-cut")]
        assert assignment_of(nb, course.assignments().values()).name == "datasets"


def test_answers_are_the_students_own_text(template):
    assert answers(filled(), template)["cut"] == sources(filled())["cut"]
    assert answers(template, template)["cut"].endswith('raise NotImplementedError("this part is not written yet")')
    assert "check-cut" not in answers(filled(), template)


class TestPapermill:
    """The cell that papermill injects has no grade id, and would set an assignment's own parameters anew."""

    @staticmethod
    def injected(nb, source, behind=0):
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = ["injected-parameters"]
        nb.cells.insert(behind + 1, cell)
        return nb

    def test_a_rebuilt_notebook_has_none(self, template):
        whole = rebuild(template, self.injected(filled(), "np = None", behind=1))
        assert [cell.source for cell in whole.cells] == [cell.source for cell in rebuild(template, filled()).cells]

    @pytest.mark.slow
    def test_nbgraders_own_autograde_leaves_it_out(self, tmp_path, monkeypatch):
        """With our configuration, as an instructor types it: a locked limit stays what it is."""
        beside = str(Path(sys.executable).parent)  # nbgrader runs `alembic` to make a gradebook
        monkeypatch.setenv("PATH", os.pathsep.join([beside, os.environ["PATH"]]))

        def cell(name, source, **graded):
            about = {"grade_id": name, "grade": False, "solution": False, "locked": True, "schema_version": 3}
            made = nbformat.v4.new_code_cell(source)
            made.metadata["nbgrader"] = about | {"task": False} | graded
            return made

        source = nbformat.v4.new_notebook()
        source.cells = [
            cell("limits", "limit = 0.01"),
            cell("answer", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION", solution=True, locked=False),
            cell("check-answer", "assert abs(x - 1) < limit, f'{x} is not 1'", grade=True, points=2),
        ]
        put(source, tmp_path / "source" / "one" / "one.ipynb")
        nbgrader(tmp_path, "generate_assignment", "one", "--create")
        for student, answer in {"right": "x = 1", "wrong": "x = 2"}.items():
            nb = notebook.read(tmp_path / "release" / "one" / "one.ipynb")
            nb.cells[1].source = answer
            put(self.injected(nb, "limit = 100"), tmp_path / "submitted" / student / "one" / "one.ipynb")
        said = nbgrader(tmp_path, "autograde", "one", "--create")
        with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as gradebook:
            scores = {each.student.id: each.score for each in gradebook.assignment_submissions("one")}
        assert scores == {"right": 2, "wrong": 0}, said
