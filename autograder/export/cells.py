"""What the formats of tables share: the cells of a spreadsheet, which must compute nothing that a student wrote."""

import csv
import io

from autograder.grading.gradebook.standing import Standing
from autograder.grading.report.table import safe

Rows = list[list[object]]


def written(rows: Rows) -> str:
    """The rows as CSV. Texts that a spreadsheet would compute have an apostrophe in front."""
    file = io.StringIO()
    csv.writer(file).writerows([[_cell(each) for each in row] for row in rows])
    return file.getvalue()


def total(standing: Standing) -> object:
    """The points less the penalty; an empty cell where nothing was graded."""
    return "" if standing.total is None else standing.total


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.10g}"
    return safe(value) if isinstance(value, str) else value
