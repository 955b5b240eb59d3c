"""A report made of blocks. It is written as Markdown with pictures beside it, and as one HTML page that holds all."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from course_lib.files import write_whole

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; white-space: pre-wrap; border-radius: 4px; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text that is shown unchanged, such as what a model wrote."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: the names of the columns.
        rows: the cells of each row, as texts.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: the name of its file, without the ending.
        svg: the picture as SVG.
        alt: what the picture shows, for readers who cannot see it.
    """

    name: str
    svg: str
    alt: str


Block = Text | Code | Table | Picture


@dataclass
class Page:
    """A title, and sections of blocks.

    Attributes:
        title: the title of the page.
        sections: the heading and the blocks of each section.

    Example:
        >>> page = Page("Two numbers")
        >>> page.add("The first", Table(["name", "value"], [["a", "1"]]))
        >>> print(page.markdown())
        # Two numbers
        <BLANKLINE>
        ## The first
        <BLANKLINE>
        | name | value |
        | --- | ---: |
        | a | 1 |
        <BLANKLINE>
    """

    title: str
    sections: list[tuple[str, list[Block]]] = field(default_factory=list)

    def add(self, heading: str, *blocks: Block) -> None:
        """Add a section.

        Args:
            heading: the heading of the section.
            blocks: the blocks of the section, in order.
        """
        self.sections.append((heading, list(blocks)))

    def markdown(self) -> str:
        """The page as Markdown, whose pictures are files in pictures/."""
        lines = [f"# {self.title}", ""]
        for heading, blocks in self.sections:
            lines += [f"## {heading}", ""]
            for block in blocks:
                lines += [_markdown(block), ""]
        return "\n".join(lines)

    def html(self) -> str:
        """The page as one HTML file that needs no other file and no server."""
        parts = []
        for heading, blocks in self.sections:
            inside = "\n".join(_html(block) for block in blocks)
            parts.append(f"<section>\n<h2>{escape(heading)}</h2>\n{inside}\n</section>")
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n"
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(self.title)}</h1>\n"
            + "\n".join(parts)
            + "\n</body>\n</html>\n"
        )

    def write(self, folder: Path, name: str = "report") -> None:
        """Write NAME.md with its pictures, and NAME.html.

        Args:
            folder: the folder that the files go into.
            name: the name of both files, without the ending.
        """
        for _, blocks in self.sections:
            for block in blocks:
                if isinstance(block, Picture):
                    write_whole(folder / "pictures" / f"{block.name}.svg", block.svg)
        write_whole(folder / f"{name}.html", self.html())
        write_whole(folder / f"{name}.md", self.markdown())


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Code):
        return "\n".join(f"    {line}" for line in block.text.split("\n"))
    if isinstance(block, Picture):
        return f"![{block.alt}](pictures/{block.name}.svg)"
    head = "| " + " | ".join(map(_cell, block.head)) + " |"
    rule = "| --- |" + " ---: |" * (len(block.head) - 1)
    return "\n".join([head, rule, *("| " + " | ".join(map(_cell, row)) + " |" for row in block.rows)])


def _cell(text: str) -> str:
    """The text, changed so that it cannot end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.svg.encode()).decode()
        alt = escape(block.alt, quote=True)
        return (
            f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alt}">'
            f"<figcaption>{escape(block.alt)}</figcaption></figure>"
        )
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in block.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
