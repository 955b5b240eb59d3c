"""What Sphinx and the theme leave wrong or heavy in the built pages, mended in the files."""

import re
from pathlib import Path

from course_lib.publishing.colab import BRANCH
from course_lib.publishing.symbols import forget_symbols

# (what to find, what to put in its place) on every page
MENDED = (
    # axe-core: the visible words are part of a control's name, or a person who speaks to the computer cannot name it.
    (re.compile(r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) aria-label="Search"'), r"\1"),
    # Of the button's three symbols one is shown; the button's own label names it.
    (re.compile(r'<i class="theme-switch '), '<i aria-hidden="true" class="theme-switch '),
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    # A list may hold its entries and nothing else; Sphinx puts the targets of links between them.
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (re.compile(r'(<div class="citation" id="[^"]*") role="doc-biblioentry"'), r"\1"),
    (re.compile(r"<summary>(?=<span class=\"toctree-toggle\")"), '<summary aria-label="Pages of this part">'),
    # 1.5 MB that draw every symbol there is a second time: the style sheet's fonts have drawn them already.
    (re.compile(r'<script[^>]* src="[^"]*scripts/fontawesome\.js[^"]*"></script>'), ""),
    # Colab has no copy of the course: it opens the chapter's copy that installs one (course_lib/publishing/colab.py).
    (
        re.compile(r'(href="https://colab\.research\.google\.com/github/[^"/]+/[^"/]+/blob/)[^"]+?(?=/notebooks/)'),
        rf"\1{BRANCH}",
    ),
    # MyST-NB calls the code of a cell its source.
    (re.compile(r"(?<=>)(Show|Hide) the source(?=<)"), r"\1 the code"),
    # A figure is loaded when the reader comes near it.
    (re.compile(r"<img (?![^>]*\bloading=)(?=[^>]*_images/)"), '<img loading="lazy" '),
)
MATHJAX = re.compile(r'<script[^>]* src="[^"]*mathjax/[^"]*"></script>')
SEARCH = re.compile(r'<script src="[^"]*(?:searchindex|searchtools|language_data)\.js[^"]*"></script>')


def mend(html: Path) -> None:
    """Change all pages of a built book in place.

    Args:
        html: the folder of the built pages.
    """
    _forget_named_tuples(html)
    symbols: set[str] = set()  # the names of all symbols that pages or scripts mention
    for path in sorted(html.rglob("*.html")):
        if "_static" in path.relative_to(html).parts:
            continue
        text = before = path.read_text(encoding="utf-8")
        for fault, remedy in MENDED:
            text = fault.sub(remedy, text)
        if 'class="math' not in text:
            text = MATHJAX.sub("", text)
        if path.name != "search.html":  # the only page that searches; its index is the largest file there is
            text = SEARCH.sub("", text)
        if text != before:
            path.write_text(text, encoding="utf-8")
        symbols |= set(re.findall(r"fa-[\w-]+", text))
    forget_symbols(html / "_static", symbols)


def _forget_named_tuples(html: Path) -> None:
    """Take named tuples out of the list of modules.

    Sphinx's viewcode lists the module that Python makes up for each one, `namedtuple_NAME`, and writes no page for it.
    """
    index = html / "_modules" / "index.html"
    if index.is_file():
        text = index.read_text(encoding="utf-8")
        index.write_text(re.sub(r'<li><a href="namedtuple_\w+\.html">[^<]*</a></li>', "", text), encoding="utf-8")
