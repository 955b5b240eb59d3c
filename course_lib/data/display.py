"""Examples as a reader sees them: every token, and which of them are trained."""

import html
from collections.abc import Callable

from course_lib.data.masking import IGNORE

# Dark text on pale paint, so that the colours can be read on a light and on a dark page.
STYLE = "display:inline-block;margin:1px;padding:0 3px;border-radius:3px;color:#1b1b1b;white-space:pre;"
PAINT = {True: "background:#ffd166;font-weight:600", False: "background:#dfe3e8"}


class LabelView:
    """Named examples as rows of tokens. A notebook shows trained tokens in colour and bold; print gives plain text.

    Args:
        examples: {"input_ids", "labels"} by name.
        decode: makes text of ids, usually `tokenizer.decode`.
    """

    def __init__(self, examples: dict[str, dict[str, list[int]]], decode: Callable[[list[int]], str]):
        self.examples, self.decode = examples, decode

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows."""
        rows = [
            f"<p><strong>{html.escape(name)}</strong><br>{self._row(example)}</p>"
            for name, example in self.examples.items()
        ]
        legend = [
            f'<span style="{STYLE}{PAINT[trained]}">{text}</span> '
            for trained, text in ((True, "trained"), (False, "label -100"))
        ]
        return f'<div class="labels">{"".join(rows)}<p>{"".join(legend)}</p></div>'

    def _row(self, example: dict[str, list[int]]) -> str:
        return "".join(
            f'<span style="{STYLE}{PAINT[label != IGNORE]}">{html.escape(self._shown(token))}</span>'
            for token, label in zip(example["input_ids"], example["labels"], strict=True)
        )

    def _shown(self, token: int) -> str:
        return self.decode([token]).replace("\n", "⏎")

    def __repr__(self) -> str:
        """Plain text, with the trained tokens in [brackets]."""
        lines = []
        for name, example in self.examples.items():
            shown = (
                f"[{self._shown(token)}]" if label != IGNORE else self._shown(token)
                for token, label in zip(example["input_ids"], example["labels"], strict=True)
            )
            lines.append(f"{name}: {''.join(shown)}")
        return "\n".join(lines)
