"""Submissions of every kind, made of a release and the reference answers."""

import copy
import functools

import nbformat
from in_process import references

from autograder import course, notebook
from autograder.student.release import release

WRITTEN = "Because of the end token."  # to a question that a person grades


@functools.lru_cache
def released(name):
    """The release, which is not to be changed."""
    return release(course.find(name))


@functools.lru_cache
def solutions(name):
    """The reference answers by part."""
    return references(course.find(name).read())


def filled(name="datasets", answers=None, edit=None):
    """The release with the reference answers to the parts `answers` (all by default), each passed through
    `edit(part, source)`."""
    nb, right = copy.deepcopy(released(name)), solutions(name)
    for cell in nb.cells:
        part = notebook.grade_id(cell)
        if notebook.is_manual(cell):
            cell.source = WRITTEN if answers is None or part in answers else cell.source
        elif notebook.is_solution(cell) and (answers is None or part in answers):
            cell.source = right[part]
            if edit:
                cell.source = edit(part, cell.source)
    return nb


def replacing(part, old, new):
    """An `edit` that replaces something in one part."""

    def edit(name, source):
        assert name != part or old in source
        return source.replace(old, new) if name == part else source

    return edit


def appending(part, more):
    """An `edit` that adds lines to one part's cell."""
    return lambda name, source: f"{source}\n{more}" if name == part else source


def split(nb, part, at, keep_metadata=True):
    """The notebook with the cell `part` split before `at`, as JupyterLab does it: the line break there is gone."""
    cells = []
    for cell in nb.cells:
        cells.append(cell)
        if notebook.grade_id(cell) == part and at in cell.source:
            place = cell.source.index(at)
            rest = copy.deepcopy(cell)
            rest.id = f"{cell.id}-rest"
            cell.source, rest.source = cell.source[:place].removesuffix("\n"), cell.source[place:]
            if not keep_metadata:
                rest.metadata = nbformat.from_dict({})
            cells.append(rest)
    nb.cells = cells
    return nb


def bare(nb):
    """The notebook as some editors leave it: without the metadata of its cells, and its own."""
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({})
    nb.metadata = nbformat.from_dict({})
    return nb


def without_tests(nb):
    """The notebook without its test cells."""
    nb.cells = [cell for cell in nb.cells if not notebook.is_test(cell)]
    return nb


def put(nb, path):
    """Write a submission, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path
