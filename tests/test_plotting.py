"""The one look of all figures: legible on a phone, and kept as SVG in a notebook."""

import io
import re
import subprocess
import sys

import matplotlib
import pytest

from course_lib import plotting


@pytest.fixture
def styled():
    with matplotlib.rc_context():
        plotting.use_style()
        yield


def test_text_is_legible_on_a_phone(styled):
    """A phone of 390 CSS pixels shows a figure 334 wide; 72 points are 96 CSS pixels."""
    shrunk = 334 / (96 * matplotlib.rcParams["figure.figsize"][0])
    for size in ("font.size", "legend.fontsize", "axes.titlesize"):
        assert matplotlib.rcParams[size] * 96 / 72 * shrunk >= 11, size


def test_a_figure_in_a_notebook_is_no_wider_than_the_style_says(styled):
    """Jupyter crops a figure to its content and adds a frame, which must not make it wider: a phone would shrink it."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.subplots().set(xlabel="step", ylabel="loss", title="a title")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', buffer.getvalue().decode())
    assert float(width[1]) <= 72 * plotting.WIDTH


def test_the_same_figure_gives_the_same_file(styled):
    from matplotlib.figure import Figure

    files = []
    for _ in range(2):
        figure = Figure()
        axis = figure.subplots()
        axis.plot([1, 2], label="a")
        axis.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        files.append(buffer.getvalue())
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_notebook_keeps_a_figure_as_svg_and_as_png(tmp_path):
    code = """
import matplotlib.pyplot as plt
from course_lib.plotting import use_style
use_style()
plt.plot([1, 2])
plt.show()
"""
    program = f"""
import nbformat, nbclient
from course_lib.execution.notebooks.kernel import ThisInterpreter
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({code!r})])
nbclient.NotebookClient(notebook, kernel_manager_class=ThisInterpreter).execute()
(output,) = notebook.cells[0].outputs
print(sorted(output["data"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "'image/png', 'image/svg+xml'" in done.stdout
