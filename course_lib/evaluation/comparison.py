"""The stages of a model, side by side, on the same prompts."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

NARROWEST = 20  # a column of text that is narrower cannot be read


@dataclass(frozen=True)
class Comparison:
    """Completions of the same prompts by several models.

    It shows itself as a table in a notebook and as Markdown with `to_markdown()`; model output is escaped in both.

    Attributes:
        prompts: the texts given.
        completions: by the model's name, one completion for each prompt, in the order of the prompts.

    Raises:
        ValueError: a model has more or fewer completions than there are prompts.

    Example:
        >>> print(Comparison(["The cat"], {"base": [" sat."], "tuned": [" kept the log."]}))
        > The cat
          [base] sat.
          [tuned] kept the log.
    """

    prompts: Sequence[str]
    completions: dict[str, Sequence[str]]

    def __post_init__(self) -> None:
        for name, texts in self.completions.items():
            if len(texts) != len(self.prompts):
                raise ValueError(
                    f"{name!r} has {len(texts)} completions for {len(self.prompts)} prompts: give one for each."
                )

    def _repr_html_(self) -> str:
        names = [escape(name) for name in self.completions]
        head = "".join(f"<th>{name}</th>" for name in ("prompt", *names))
        body = ""
        for prompt, *texts in self._rows():  # a phone has no room for columns and shows the label before each cell
            cells = [f'<td data-label="{name}">{_html(text)}</td>' for name, text in zip(names, texts, strict=True)]
            body += f"<tr><td>{_html(prompt)}</td>{''.join(cells)}</tr>"
        return f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def to_markdown(self) -> str:
        """A Markdown table with one row for each prompt."""
        lines = [("prompt", *self.completions), ("---",) * (1 + len(self.completions)), *self._rows()]
        return "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines)

    def __str__(self) -> str:
        blocks = []
        for prompt, *texts in self._rows():
            blocks.append(f"> {prompt}")
            blocks += [f"  [{name}] {text.strip()}" for name, text in zip(self.completions, texts, strict=True)]
        return "\n".join(blocks)

    def _rows(self) -> list[tuple[str, ...]]:
        return list(zip(self.prompts, *self.completions.values(), strict=True))


def _html(text: str) -> str:
    return escape(text.strip()).replace("\n", "<br>")


def _markdown(text: str) -> str:
    return escape(text.strip(), quote=False).replace("|", "\\|").replace("\n", " ")


# --- columns for a terminal -----------------------------------------------------------------------------------------


def side_by_side(texts: Mapping[str, str], width: int) -> str:
    """Texts in columns beside each other, each under its name; one under another where the terminal is too narrow.

    Letters count by the cells that they take on a terminal: two for Chinese, none for a combining accent.

    Args:
        texts: by the name of their column. Control characters other than line ends have to be gone.
        width: of the terminal, in cells.

    Returns:
        Lines of text.
    """
    column = (width - 3 * (len(texts) - 1)) // len(texts)
    if column < NARROWEST:
        return "\n".join(line for name, text in texts.items() for line in (f"{name}:", *_indented(text, width)))
    wrapped = [[*wrap(name, column), "-" * column, *wrap(text, column)] for name, text in texts.items()]
    heads = [lines.index("-" * column) for lines in wrapped]
    # Names of several lines end on one line, just above the rule.
    wrapped = [[""] * (max(heads) - head) + lines for head, lines in zip(heads, wrapped, strict=True)]
    height = max(map(len, wrapped))
    padded = [lines + [""] * (height - len(lines)) for lines in wrapped]
    rows = (" | ".join(_padded(line, column) for line in row) for row in zip(*padded, strict=True))
    return "\n".join(row.rstrip() for row in rows)


def _indented(text: str, width: int) -> list[str]:
    return [f"  {line}".rstrip() for line in wrap(text, max(NARROWEST, width) - 2)]


def wrap(text: str, width: int) -> list[str]:
    """The lines of `text`, none wider than `width` cells: broken between words, or within a word that is longer.

    Args:
        text: may have lines of its own; they stay.
        width: in cells, at least 2.

    Returns:
        The lines, at least one.
    """
    lines: list[str] = []
    for line in text.expandtabs(4).splitlines() or [""]:
        current: str | None = None  # what the line under way holds; None: nothing yet, not even a blank
        for word in line.split(" "):
            for part in _parts(word, width):
                joined = part if current is None else f"{current} {part}"
                if current is not None and cells(joined) > width:
                    lines.append(current)
                    joined = part
                current = joined
        lines.append(current or "")
    return lines


def _parts(word: str, width: int) -> Iterator[str]:
    """`word` itself, or pieces of at most `width` cells."""
    start, taken = 0, 0
    for position, letter in enumerate(word):
        size = cells(letter)
        if taken + size > width:
            yield word[start:position]
            start, taken = position, 0
        taken += size
    yield word[start:]


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    total = 0
    for letter in text:
        if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
            continue  # an accent on the letter before it, or a joiner
        total += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return total


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))
