"""What Sphinx and the theme leave wrong in the built pages, mended in the files."""

import re
from pathlib import Path

# (what to find, what to put in its place); each is a fault that axe-core finds on every page.
MENDED = (
    # The visible words are part of a control's name, or a person who speaks to the computer cannot name it.
    (re.compile(r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) aria-label="Search"'), r"\1"),
    # Of its three symbols one is shown; the button's own label names it.
    (re.compile(r'<i class="theme-switch '), '<i aria-hidden="true" class="theme-switch '),
    (re.compile(r"<summary>(?=<span class=\"toctree-toggle\")"), '<summary aria-label="Pages of this part">'),
)


def mend(html: Path) -> None:
    """Change all pages of a built book in place.

    Args:
        html: the folder of the built pages.
    """
    _forget_named_tuples(html)
    for path in sorted(html.rglob("*.html")):
        if "_static" in path.relative_to(html).parts:
            continue
        text = before = path.read_text(encoding="utf-8")
        for fault, remedy in MENDED:
            text = fault.sub(remedy, text)
        if text != before:
            path.write_text(text, encoding="utf-8")


def _forget_named_tuples(html: Path) -> None:
    """Take named tuples out of the list of modules.

    Sphinx's viewcode lists the module that Python makes up for each one, `namedtuple_NAME`, and writes no page for it.
    """
    index = html / "_modules" / "index.html"
    if index.is_file():
        text = index.read_text(encoding="utf-8")
        index.write_text(re.sub(r'<li><a href="namedtuple_\w+\.html">[^<]*</a></li>', "", text), encoding="utf-8")
