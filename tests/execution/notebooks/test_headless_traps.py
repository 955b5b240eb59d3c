"""Where papermill and Jupyter Book say that all is well, or that it is not, and are wrong: `course run` must be right.

All of it was seen with papermill 2.7.0, nbclient 0.11.0 and Jupyter Book 1.0.4.
"""

import json

import nbformat
import pytest

from course_lib.errors import CourseError
from course_lib.execution.notebooks.parameters import parse_parameters
from course_lib.execution.notebooks.progress import Lines
from course_lib.execution.notebooks.runner import Runner
from course_lib.publishing.sources import page

PARAMETERS = 'profile = "cpu"\nseed = 0\noutput_dir = "x"\n'


def run(chapters, out, **options):
    options.setdefault("profile", "smoke")
    return Runner(out, progress=Lines(lambda line: None), **options).run(chapters)


def tagged(chapter, *tags, cell=-1):
    """The chapter with these tags on one of its cells."""
    notebook = nbformat.read(chapter.path, as_version=4)
    notebook.cells[cell].metadata["tags"] = list(tags)
    nbformat.write(notebook, chapter.path)
    return chapter


class TestNumbers:
    """papermill hands 1e-4 on as a text by three ways of four: -y, -f with YAML, and -f with JSON."""

    CELL = "from course_lib.execution import load_profile\nassert load_profile(profile, '01_tiny').lr == 1e-4"
    OWN = {
        "mine.toml": 'extends = "smoke"\n["01_tiny"]\nlr = 1e-4\n',
        "mine.json": '{"extends": "smoke", "01_tiny": {"lr": 1e-4}}',
    }

    @pytest.mark.parametrize("name", OWN)
    def test_in_a_profile_of_ones_own(self, chapter, tmp_path, name):
        (tmp_path / name).write_text(self.OWN[name])
        (result,) = run([chapter(self.CELL)], tmp_path / "out", profile=str(tmp_path / name))
        assert result.status == "executed", result.message

    def test_by_set(self, chapter, tmp_path):
        (result,) = run([chapter(self.CELL)], tmp_path / "out", overrides=["01_tiny.lr=1e-4"])
        assert result.status == "executed", result.message

    def test_as_a_parameter(self, chapter, tmp_path):
        one = chapter("assert lr == 1e-4, repr(lr)", parameters=PARAMETERS + "lr = 5e-3")
        (result,) = run([one], tmp_path / "out", parameters={"lr": 1e-4})
        assert result.status == "executed", result.message


class TestUnknownParameters:
    """papermill prints a line and runs."""

    def test_a_name_that_the_chapter_lacks(self, chapter, tmp_path):
        one = chapter("a = 1", parameters=PARAMETERS + "steps = 3")
        with pytest.raises(CourseError, match=r"has no parameter 'stpes'. It has: .*steps.* Did you mean steps\?"):
            run([one], tmp_path / "out", parameters={"stpes": 5})
        assert not (tmp_path / "out").exists()

    def test_a_value_of_another_type(self, chapter, tmp_path):
        one = chapter("a = 1", parameters=PARAMETERS + "lr = 5e-3")
        with pytest.raises(CourseError, match="this parameter is a number, such as 0.005"):
            run([one], tmp_path / "out", parameters={"lr": "fast"})

    @pytest.mark.parametrize(
        ("text", "value"),
        [("1e-4", 1e-4), (".5", 0.5), ("1.", 1.0), ("3", 3), ("true", True), ("02:00:00", "02:00:00")],
    )
    def test_the_command_reads_values_as_toml(self, text, value):
        (made,) = parse_parameters([("lr", text)]).values()
        assert (made, type(made)) == (value, type(value))

    def test_what_has_an_option_of_its_own(self):
        with pytest.raises(CourseError, match="Use --profile instead"):
            parse_parameters([("profile", "smoke")])

    def test_two_parameters_cells(self, chapter, tmp_path):
        """As a split in Jupyter leaves them: papermill would inject after the first, and the second would win."""
        one = tagged(chapter("seed = 5"), "parameters")
        with pytest.raises(CourseError, match="2 cells tagged `parameters`"):
            run([one], tmp_path / "out")


class TestTheSecondHalf:
    """For papermill, sys.exit(0) ends a notebook well, whatever came after it."""

    @pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "raise SystemExit"])
    def test_a_chapter_that_ends_in_the_middle_failed(self, chapter, tmp_path, leave):
        (result,) = run([chapter(leave, "a = 1", "b = 2")], tmp_path / "out")
        assert result.status == "failed"
        assert f"in cell 3 of 5, `{leave}`: the cell ended the program" in result.message
        assert "2 of 4 code cells are left" in result.message
        assert not (tmp_path / "out/01_tiny").exists()

    def test_the_book_refuses_it_too(self):
        cells = [nbformat.v4.new_code_cell("a = 1", execution_count=1), nbformat.v4.new_code_cell("b = 2")]
        with pytest.raises(CourseError, match="01_tiny, cell .*was never run"):
            page(nbformat.v4.new_notebook(cells=cells), "01_tiny")


class TestAnExpectedError:
    """papermill runs a notebook with a tagged error to its end and then calls it a failure."""

    def test_it_is_shown_and_the_chapter_is_good(self, chapter, tmp_path):
        one = tagged(chapter("print('before')\n1 / 0", "a = 1"), "raises-exception", cell=2)
        (result,) = run([one], tmp_path / "out")
        assert result.status == "executed", result.message
        notebook = json.loads((tmp_path / "out/01_tiny/notebook.ipynb").read_text())
        cell = next(c for c in notebook["cells"] if "1 / 0" in "".join(c["source"]))
        assert [output["output_type"] for output in cell["outputs"]] == ["stream", "error"]
        assert not [c for c in notebook["cells"] if "papermill-error" in json.dumps(c)]
        (shown,) = [c for c in page(notebook, "01_tiny")["cells"] if "1 / 0" in "".join(c["source"])]
        assert shown["outputs"][1]["traceback"] == ["ZeroDivisionError: division by zero"]  # no paths of this machine

    def test_another_error_still_fails(self, chapter, tmp_path):
        one = tagged(chapter("1 / 0", "[][1]", "a = 1"), "raises-exception", cell=2)
        (result,) = run([one], tmp_path / "out")
        assert "in cell 4 of 5, `[][1]`: IndexError" in result.message
        kept = (tmp_path / "out/.failed/01_tiny.ipynb").read_text()
        assert "ZeroDivisionError" in kept
        assert "IndexError" in kept

    def test_an_error_that_does_not_come_fails(self, chapter, tmp_path):
        one = tagged(chapter("a = 1", "b = 2"), "raises-exception", cell=2)
        (result,) = run([one], tmp_path / "out")
        assert "in cell 3 of 4, `a = 1`: the cell is tagged `raises-exception`, and it raised nothing" in result.message

    def test_without_a_tag_the_book_refuses_an_error(self):
        output = nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])
        cell = nbformat.v4.new_code_cell("f()", outputs=[output], execution_count=1)
        with pytest.raises(CourseError, match="ValueError: x"):
            page(nbformat.v4.new_notebook(cells=[cell]), "01_tiny")


def test_a_killed_cell_is_not_called_completed(chapter, tmp_path):
    """As after the operating system has killed the kernel for its memory."""
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    (result,) = run([chapter("a = 1", kill, "b = 2")], tmp_path / "out")
    assert "in cell 4 of 5, `import os, signal`: the kernel died" in result.message
    notebook = nbformat.read(tmp_path / "out/.failed/01_tiny.ipynb", as_version=4)
    assert [cell.metadata.papermill.status for cell in notebook.cells[-3:]] == ["completed", "failed", "pending"]
    assert not (tmp_path / "out/01_tiny").exists()


def test_a_cell_that_takes_too_long_is_named(chapter, tmp_path):
    (result,) = run([chapter("a = 1", "import time\ntime.sleep(600)")], tmp_path / "out", cell_timeout=1.5)
    assert "in cell 4 of 4, `import time`: the cell took longer than --cell-timeout 1.5 s" in result.message
    assert result.seconds < 300
    notebook = nbformat.read(tmp_path / "out/.failed/01_tiny.ipynb", as_version=4)
    assert notebook.cells[-1].metadata.papermill.status == "failed"


def test_the_kernel_takes_no_port(chapter, tmp_path):
    """jupyter_client 8.10 looks for free ports and lets them go before the kernel takes them. Another kernel that
    starts in that moment gets the same ones, and the later of the two dies."""
    transport = "from ipykernel.connect import get_connection_info as info\nprint(info(unpack=True)['transport'])"
    (result,) = run([chapter(transport)], tmp_path / "out")
    assert result.status == "executed", result.message
    notebook = nbformat.read(tmp_path / "out/01_tiny/notebook.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "ipc\n"
