"""The class's statistics as a page and a figure. Whatever a submission has a say in is text there, and never markup."""

from html import escape
from pathlib import Path

from autograder.course import Assignment
from autograder.grading.report.statistics import ClassStatistics, PartStatistics
from autograder.judging.judge import is_judged
from autograder.judging.results import FORGEABLE
from course_lib.files import write_whole

WIDTH, ROW, LEFT, TOP = 640, 26, 220, 250  # of the figure, in pixels
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }} svg {{ max-width: 100%; height: auto; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; vertical-align: top; }}
td.n, th.n {{ text-align: right; }} code {{ overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{figure}
<table><thead><tr><th>part</th><th class="n">points</th><th class="n">mean</th><th class="n">all points</th>
<th class="n">none</th><th class="n">graded</th><th>common failures</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


def write_report(assignment: Assignment, found: ClassStatistics, folder: Path) -> list[Path]:
    """Write report-NAME.html, which needs no other file, and report-NAME.svg.

    Args:
        assignment: Whose report it is.
        found: The statistics.
        folder: Where the files go.

    Returns:
        Both paths.
    """
    drawn, marked = figure(assignment.name, found), "" if is_judged(assignment.read()) else f" Note: {FORGEABLE}."
    page = PAGE.format(
        title=escape(f"{assignment.name}: how the class did"),
        summary=escape(described(found) + marked),
        figure=drawn,
        rows="\n".join(_row(number, part) for number, part in enumerate(found.parts, start=1)),
    )
    names = [folder / f"report-{assignment.name}.html", folder / f"report-{assignment.name}.svg"]
    return [write_whole(names[0], page), write_whole(names[1], drawn)]


def described(found: ClassStatistics) -> str:
    """The class in one sentence."""
    return (
        f"{len(found.totals)} submissions are graded: mean {found.mean:.2f}, median {found.median:g}, standard"
        f" deviation {found.spread:.2f}, of {found.most:g} points."
    )


def figure(name: str, found: ClassStatistics) -> str:
    """An SVG figure: how many students reached which tenth of the points, and the mean of each part.

    Args:
        name: The assignment's.
        found: The statistics.

    Returns:
        The SVG file's text, with a title and a description for those who do not see it.
    """
    height = TOP + ROW * len(found.parts) + 20
    said = ", ".join(f"{10 * tenth} to {10 * tenth + 10} %: {count}" for tenth, count in enumerate(found.counts))
    means = "; ".join(f"{part.part.title or part.part.id}: {_share(part):.0%}" for part in found.parts)
    about = f"Number of students by the share of the points that they reached. {said}. Mean of each part. {means}."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img" aria-labelledby="report-title report-about" font-family="sans-serif" font-size="13">',
            f'<title id="report-title">{escape(name)}: points of the class</title>',
            f'<desc id="report-about">{escape(about)}</desc>',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *_histogram(found.counts),
            f'<text x="10" y="{TOP - 12}">mean of each part, in per cent of its points</text>',
            *[line for number, part in enumerate(found.parts) for line in _bar(number, part)],
            "</svg>",
        ]
    )


def _histogram(counts: tuple[int, ...]) -> list[str]:
    """Ten columns above y = 190."""
    drawn = ['<text x="10" y="18">students by the per cent of the points that they reached</text>']
    step = (WIDTH - 40) / 10
    for tenth, count in enumerate(counts):
        x, height = 20 + tenth * step, 140 * count / max(1, *counts)
        middle = f"{x + step / 2:.1f}"
        size = f'width="{step - 6:.1f}" height="{height:.1f}"'
        drawn += [
            f'<rect x="{x + 3:.1f}" y="{190 - height:.1f}" {size} fill="#1f77b4"/>',
            f'<text x="{middle}" y="{184 - height:.1f}" text-anchor="middle">{count}</text>',
            f'<text x="{middle}" y="206" text-anchor="middle">{10 * tenth}–{10 * tenth + 10}</text>',
        ]
    return drawn


def _bar(number: int, found: PartStatistics) -> list[str]:
    y, width = TOP + ROW * number, (WIDTH - LEFT - 70) * _share(found)
    title = found.part.title or found.part.id
    title = title if len(title) <= 32 else f"{title[:31]}…"
    return [
        f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(title)}</text>',
        f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 8}" fill="#2ca02c"/>',
        f'<text x="{LEFT + width + 6:.1f}" y="{y + 15}">{_share(found):.0%}</text>',
    ]


def _share(found: PartStatistics) -> float:
    return min(1.0, found.mean / found.part.points) if found.part.points else 0.0


def _row(number: int, found: PartStatistics) -> str:
    failures = "<br>".join(f"{count} × <code>{escape(said)}</code>" for said, count in found.failures)
    numbers = [f"{found.part.points:g}", f"{found.mean:.2f}", str(found.full), str(found.none), str(found.graded)]
    cells = "".join(f'<td class="n">{each}</td>' for each in numbers)
    return f"<tr><td>{number}. {escape(found.part.title or found.part.id)}</td>{cells}<td>{failures}</td></tr>"
