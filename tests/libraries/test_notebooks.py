"""What papermill, nbgrader and Jupyter Book do that changes a grade, a page or a run and raises nothing."""

import logging
import subprocess
import sys

import nbformat
import pytest

V4 = nbformat.v4


def written(path, *sources, tags=()):
    cells = [V4.new_code_cell(source, metadata={"tags": list(tags[n : n + 1])}) for n, source in enumerate(sources)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(V4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def papermill(folder, *arguments):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "in.ipynb", "out.ipynb", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, nbformat.read(folder / "out.ipynb", as_version=4).cells


@pytest.mark.library(
    package="papermill",
    happens="A notebook that leaves in the middle by `sys.exit(0)` counts as a success",
    expected="A run is a success when all cells ran.",
    instead="Look at the cells' statuses in the output, as `course run` does: the cells behind it are “pending”.",
    chapter="how-to-use",
)
def test_leaving_in_the_middle(tmp_path):
    written(tmp_path / "in.ipynb", "import sys", "sys.exit(0)", "print(1 / 0)")
    status, cells = papermill(tmp_path)
    assert status == 0
    assert [cell.metadata.papermill.status for cell in cells] == ["completed", "failed", "pending"]


@pytest.mark.library(
    package="papermill",
    happens="`-y 'lr: 1e-4'` gives the notebook a string, and `-p run 2024_01` the number 202401",
    expected="A number written in the usual way arrives as that number, and a name as a name.",
    instead="Write `1.0e-4` in YAML (version 1.1 wants the dot) and use `-r` for text. `course run --set` reads TOML.",
    chapter="how-to-use",
)
def test_what_parameters_become(tmp_path):
    written(tmp_path / "in.ipynb", "lr, run, start = 0, 0, 0", tags=["parameters"])
    given = ["--prepare-only", "-y", "lr: 1e-4", "-p", "run", "2024_01", "-p", "start", "007"]
    _, cells = papermill(tmp_path, *given)
    values: dict = {}
    exec(cells[1].source, values)
    assert (values["lr"], values["run"], values["start"]) == ("1e-4", 202401, 7)


@pytest.mark.library(
    package="papermill",
    happens="Of two cells tagged `parameters`, the second overwrites what was injected",
    expected="Injected values hold in the whole notebook, or two such cells are refused.",
    instead="Tag one cell only. Splitting the cell in JupyterLab copies its tag; `course run` refuses two.",
    chapter="how-to-use",
)
def test_two_parameters_cells(tmp_path):
    written(tmp_path / "in.ipynb", "steps = 1", "steps = 2", tags=["parameters", "parameters"])
    _, cells = papermill(tmp_path, "--prepare-only", "-p", "steps", "10")
    values: dict = {}
    for cell in cells:
        exec(cell.source, values)
    assert values["steps"] == 2


def graded_cell(*outputs):
    metadata = {"nbgrader": {"grade": True, "points": 3, "grade_id": "t", "solution": False, "locked": True}}
    return V4.new_code_cell("x", metadata=metadata, outputs=list(outputs))


def points(*outputs):
    from nbgrader.utils import determine_grade

    return determine_grade(graded_cell(*outputs), logging.getLogger("nbgrader"))[0]


def result(text):
    return V4.new_output("execute_result", {"text/plain": text}, execution_count=1)


@pytest.mark.library(
    package="nbgrader",
    happens="A warning or a progress bar on stderr costs all points of a test cell",
    expected="A test that raises nothing has passed.",
    instead="Send warnings elsewhere in tests. `course grade` judges outside the submission's process and does not "
    "look at "
    "stderr.",
    chapter="assignments/index",
)
def test_stderr_costs_the_points():
    assert points() == 3
    assert points(V4.new_output("stream", name="stderr", text="FutureWarning: later\n")) == 0


@pytest.mark.library(
    package="nbgrader",
    happens="A test cell whose last value is `np.float64(0.5)`, True, None or nan gives full marks",
    expected="A last value of 0.5 gives half a point, and something that is no number is refused.",
    instead="End partial credit with a plain Python number, `float(...)`. NumPy 2 prints its numbers with their type.",
    chapter="assignments/index",
)
def test_what_is_not_a_number_is_full_marks():
    assert points(result("0.5")) == 0.5
    assert [points(result(text)) for text in ("np.float64(0.5)", "True", "None", "nan")] == [3, 3, 3, 3]


@pytest.mark.library(
    package="nbgrader",
    happens="A time zone in a submission's timestamp counts as seconds: `+0200` moves it by 200 seconds",
    expected="03:04:05 +0200 is 01:04:05 in UTC.",
    instead="Write timestamps in UTC. `course grade` reads the offset as hours and minutes.",
    chapter="assignments/index",
)
def test_an_offset_counts_as_seconds():
    from nbgrader.utils import parse_utc

    assert parse_utc("2024-01-02 03:04:05 +0200").strftime("%H:%M:%S") == "03:00:45"


@pytest.mark.library(
    package="nbgrader",
    happens="Late submissions cost nothing unless a penalty method is set",
    expected="A deadline that is set has a consequence.",
    instead="Set `c.LateSubmissionPlugin.penalty_method`, or write a plugin. The default logs a warning.",
    chapter="assignments/index",
)
def test_lateness_costs_nothing():
    from nbgrader.plugins import LateSubmissionPlugin

    assert not LateSubmissionPlugin().late_submission_penalty("student", 10, 1800)


@pytest.mark.library(
    package="Jupyter Book",
    happens="A build that fails with `-W --keep-going` succeeds when it is started again",
    expected="A page whose warning failed the build fails it until the page is mended.",
    instead="Build into an empty folder in CI, or with `--all`. The page was written the first time and is not read "
    "again.",
    chapter="how-to-use",
)
def test_warnings_as_errors_fail_once(tmp_path):
    (tmp_path / "_config.yml").write_text("title: x\nexecute: {execute_notebooks: 'off'}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "index.md").write_text("# Title\n\n{doc}`nowhere`\n")

    def build():
        start = "from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", start, "build", str(tmp_path), "-q", "-W", "--keep-going"]
        return subprocess.run(command, capture_output=True, text=True)

    first, second = build(), build()
    assert first.returncode != 0, first.stderr
    assert "nowhere" in first.stderr
    assert second.returncode == 0, second.stderr


@pytest.mark.library(
    package="Jupyter Book",
    happens="With `execute_notebooks: cache`, a page shows the outputs of another page that has the same code",
    expected="Each page is run in its own folder, with its own data.",
    instead="The cache's key is the code and the kernel, without the notebook's path. Use `force`, or run the "
    "notebooks before the build and turn execution off, as this book does.",
    chapter="how-to-use",
)
def test_the_cache_does_not_know_whose_outputs_it_has(tmp_path):
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache = get_cache(tmp_path / "cache")
    read = "print(open('rainfall.txt').read())"
    notebooks = {}
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        notebooks[folder] = nbformat.read(written(tmp_path / folder / "page.ipynb", read), as_version=4)
    notebooks["north"].cells[0].outputs = [V4.new_output("stream", text="111")]
    north = CacheBundleIn(notebooks["north"], str(tmp_path / "north" / "page.ipynb"))
    cache.cache_notebook_bundle(north, check_validity=False)
    _, south = cache.merge_match_into_notebook(notebooks["south"])
    assert south.cells[0].outputs[0].text == "111"
    notebooks["south"].cells[0].source += "  # here"
    with pytest.raises(KeyError):
        cache.match_cache_notebook(notebooks["south"])
