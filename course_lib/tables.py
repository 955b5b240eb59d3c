"""Results as a table: HTML with right-aligned numbers in a notebook, columns of text in a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ABSENT = "–"  # stands where a number was not measured


class Table:
    """Rows under named columns.

    A notebook shows an HTML table, which scrolls inside its own box on a narrow screen; `print` gives columns of text.
    Columns of numbers are aligned on the right in both.

    Args:
        columns: for each heading the format of its cells, as in an f-string (`".3f"`, `","`, `".0%"`); `""` for text.
            Text behind a space follows each number: `".1f MB"`.
        rows: the cells of each row; None: was not measured.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.

    Example:
        >>> table = Table({"model": "", "loss": ".3f", "trained": ","}, [("base", 2.5, None)])
        >>> table.add("LoRA", 1.25, 1_843_200)
        >>> print(table)
        model   loss    trained
        base   2.500          –
        LoRA   1.250  1,843,200
    """

    def __init__(self, columns: Mapping[str, str], rows: Iterable[Sequence[Any]] = ()):
        self.columns = dict(columns)
        self.rows: list[list[str]] = []
        for row in rows:
            self.add(*row)

    def add(self, *cells: object) -> None:
        """Append one row.

        Args:
            cells: one value for each column.

        Raises:
            ValueError: there are more or fewer cells than columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"A row of {len(cells)} cells does not fit the {len(self.columns)} columns {self.heads}.")
        self.rows.append([_text(cell, spec) for cell, spec in zip(cells, self.columns.values(), strict=True)])

    @property
    def heads(self) -> list[str]:
        """The headings."""
        return list(self.columns)

    def __str__(self) -> str:
        cells = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [bool(spec) for spec in self.columns.values()]
        lines = []
        for row in cells:
            padded = [
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, numeric, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows."""
        styles = [' class="number"' if spec else "" for spec in self.columns.values()]
        head = "".join(
            f'<th scope="col"{style}>{escape(name)}</th>' for name, style in zip(self.heads, styles, strict=True)
        )
        body = "".join(f"<tr>{_html_row(row, styles)}</tr>" for row in self.rows)
        return f'<table class="results"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _html_row(row: list[str], styles: list[str]) -> str:
    """A row's cells; the first one names the row."""
    first, *rest = row
    cells = "".join(f"<td{style}>{escape(cell)}</td>" for cell, style in zip(rest, styles[1:], strict=True))
    return f'<th scope="row"{styles[0]}>{escape(first)}</th>{cells}'


def _text(cell: object, spec: str) -> str:
    """A cell's text; what is not a number stands as it is, whatever its column's format."""
    if cell is None:
        return ABSENT
    if isinstance(cell, str):
        return cell
    number, space, unit = spec.partition(" ")
    return f"{cell:{number}}{space}{unit}"
