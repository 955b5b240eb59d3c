"""Tiny chapters: notebooks of a few cells that need neither torch nor weights."""

import nbformat
import pytest

from course_lib.execution.notebooks import side_by_side

PARAMETERS = 'profile = "cpu"\nseed = 0\noutput_dir = "outputs/x"'


@pytest.fixture
def chapter(tmp_path):
    """chapter("code", "code", name="01_x") writes a notebook with a title, a parameters cell and these cells."""
    from course_lib.execution.notebooks.project import Chapter

    def make(*cells, name="01_tiny", parameters=True):
        nb = nbformat.v4.new_notebook()
        nb.cells.append(nbformat.v4.new_markdown_cell("# A tiny chapter"))
        if parameters:  # True, or the cell's own source
            source = PARAMETERS if parameters is True else parameters
            nb.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}))
        nb.cells += [nbformat.v4.new_code_cell(source) for source in cells]
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(nb, path)
        return Chapter(path)

    return make


@pytest.fixture
def machine(monkeypatch):
    """machine(cores=2, memory_gb=8) makes this machine look like that one."""

    def look_like(cores=2, memory_gb=1000.0):
        monkeypatch.setattr(side_by_side, "usable_cores", lambda: cores)
        monkeypatch.setattr(side_by_side, "available_memory", lambda: memory_gb * 1e9)

    return look_like
