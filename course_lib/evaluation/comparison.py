"""The stages of a model, side by side, on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Comparison:
    """Completions of the same prompts by several models.

    prompts: the texts given; completions: model name -> one completion a prompt, in the order of the prompts.
    Shows itself as a table in a notebook and as Markdown with `to_markdown()`; model output is escaped in both.
    """

    prompts: Sequence[str]
    completions: dict[str, Sequence[str]]

    def __post_init__(self) -> None:
        for name, texts in self.completions.items():
            if len(texts) != len(self.prompts):
                raise ValueError(f"{name!r} has {len(texts)} completions for {len(self.prompts)} prompts.")

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ("prompt", *self.completions))
        body = "".join(f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        return f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def to_markdown(self) -> str:
        """A Markdown table, a row a prompt."""
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
