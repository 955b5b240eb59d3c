"""The page that says what the numbers of the book were made with: time, memory, machine, and what each run recorded."""

from collections.abc import Mapping

from course_lib.execution.notebooks.expected import band_text, flattened

LONGEST = 60  # letters of a recorded text that the page shows


def runs_page(
    metrics: list[dict], expected: Mapping[str, dict] | None = None, titles: Mapping[str, str] | None = None
) -> str:
    """The page of the runs.

    Args:
        metrics: of each chapter.
        expected: the expected numbers by chapter, where there are any.
        titles: what the book's table of contents calls each chapter; without a title it has its file's name.

    Returns:
        The page in Markdown.
    """
    title = {m["chapter"]: (titles or {}).get(m["chapter"]) or m["chapter"].replace("_", " ") for m in metrics}
    rows = "\n".join(
        f"| [{title[m['chapter']]}](notebooks/{m['chapter']}.ipynb) | `{m['profile']}` | {_time(m['duration_s'])} "
        f"| {m['peak_memory_bytes'] / 1e9:.2f} GB | {m['finished'][:10]} | `{(m['commit'] or 'none')[:10]}` |"
        for m in metrics
    )
    known = expected or {}
    recorded = "\n\n".join(_chapter(title[m["chapter"]], m["recorded"], known.get(m["chapter"])) for m in metrics)
    hardware = {k: v for k, v in metrics[0]["hardware"].items() if k != "memory_bytes"} if metrics else {}
    if metrics and metrics[0]["hardware"]["memory_bytes"]:
        hardware["memory"] = f"{metrics[0]['hardware']['memory_bytes'] / 2**30:.0f} GiB"
    versions = metrics[0]["versions"] if metrics else {}
    return f"""# The runs behind these pages

Every chapter was executed from its first cell to its last by `course run`, which wrote down what it took. The memory is
the peak of the chapter's own process.

| chapter | profile | time | peak memory | date | commit |
| --- | --- | ---: | ---: | --- | --- |
{rows}

## Recorded numbers

What each chapter recorded, with four digits. Where a number is compared with the expected one, the last two columns say
with what, and how far it may be off: `course run --check-expected` repeats the comparison on your machine.

{recorded}

## Machine

{_table(hardware)}

## Versions

{_table(versions)}
"""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _chapter(title: str, recorded: dict, expected: dict | None) -> str:
    """A chapter's section: its numbers behind a fold, one line each."""
    values = flattened(recorded)
    head = f"### {title}\n\n:::{{dropdown}} {len(values)} recorded values\n"
    return f"{head}{_values(values, expected)}\n:::"


def _values(values: dict, expected: dict | None) -> str:
    """The table of values, beside the expected ones where there are any."""
    if expected is None:
        lines = ["| what | value |", "| --- | ---: |"]
        return "\n".join([*lines, *(f"| {_name(name)} | {_text(value)} |" for name, value in values.items())])
    lines = ["| what | value | expected | within |", "| --- | ---: | ---: | ---: |"]
    for name, value in values.items():
        width = band_text(expected, name)
        wanted = _text(expected["values"][name]) if width else ""  # without a band it is not compared
        lines.append(f"| {_name(name)} | {_text(value)} | {wanted} | {width} |")
    return "\n".join(lines)


def _name(dotted: str) -> str:
    """`rank_losses.8` as words."""
    return _cell(dotted.replace(".", " · ").replace("_", " "))


def _table(values: dict) -> str:
    lines = [f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "| --- | --- |", *lines])


def _text(value: object) -> str:
    """Four digits of a float, commas in an integer, a list's items, the beginning of a text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    text = " ".join(str(value).split())
    return _cell(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def _cell(text: str) -> str:
    """A text that Markdown leaves as it is."""
    return "".join(f"\\{letter}" if letter in "\\|_*`[]{}$<>" else letter for letter in text)
