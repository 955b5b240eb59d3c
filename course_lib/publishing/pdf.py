"""The whole book as one PDF: the built pages one after another on one page, printed by Chromium."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from course_lib.errors import CourseError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

PDF_NAME = "adapting-language-models.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = ("api/", "genindex", "search")  # the reference of the code is for the screen
# What only a screen needs, and code that readers of the pages unfold.
NOT_PRINTED = ".headerlink, .start-button, .pdf-link, details.hide, script, .sd-d-none, div.toctree-wrapper"
FOOTER = '<p style="width:100%;text-align:center;font-size:8px">{}</p>'.format('<span class="pageNumber"></span>')


def write_pdf(html: Path, pdf: Path) -> None:
    """Print a built book.

    Args:
        html: the folder of the built pages.
        pdf: the file to write; it appears when it is whole.

    Raises:
        CourseError: playwright or Chromium is not installed.
    """
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise CourseError(
            "`course book --pdf` prints with Chromium, which is not installed (Debian: apt install chromium)."
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise CourseError("`course book --pdf` needs playwright: pip install playwright.") from error
    print("printing the PDF (some minutes)", flush=True)
    page_file = html / ".print.html"
    page_file.write_text(print_page(html), encoding="utf-8")
    partial = pdf.with_name(f".{pdf.name}.part")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            _print(browser.new_page(), page_file, partial)
            browser.close()
        os.replace(partial, pdf)
    finally:
        page_file.unlink()
        partial.unlink(missing_ok=True)


def _print(page: Any, source: Path, pdf: Path) -> None:
    """Let Chromium print a page when its mathematics is typeset."""
    page.set_default_timeout(600_000)  # milliseconds: a busy machine takes its time
    page.goto(source.as_uri(), wait_until="load")
    page.evaluate("window.MathJax && MathJax.startup.promise.then(() => null)")
    options: dict[str, Any] = {"outline": True, "tagged": True, "print_background": True}
    options |= {"display_header_footer": True, "header_template": "<span></span>", "footer_template": FOOTER}
    page.pdf(path=str(pdf), format="A4", **options)


def print_page(html: Path) -> str:
    """One HTML page with a table of contents and the articles of all pages, in the order of the sidebar.

    Args:
        html: the folder of the built pages; the page belongs there, too, because it refers to their pictures.

    Returns:
        The page.
    """
    index = _read(html / "index.html")
    names = [name for name in _reading_order(index) if not name.startswith(LEFT_OUT)]
    pages = {name: _read(html / f"{name}.html") for name in names}
    articles = [_article(name, soup, pages.keys()) for name, soup in pages.items()]
    contents = "\n".join(f'<li><a href="#{_slug(name)}">{_heading(soup)}</a></li>' for name, soup in pages.items())
    title = _heading(index)
    return f"""<!doctype html>
<html lang="en" data-theme="light" data-mode="light" data-content_root="./">
<head><meta charset="utf-8"><title>{title}</title>
{_head(pages)}
</head>
<body class="printed"><main class="bd-content"><article class="bd-article">
<section class="printed-title"><p class="printed-name">{title}</p><p>{datetime.now(UTC):%-d %B %Y}</p>
<h2>Contents</h2><ol>{contents}</ol></section>
{"".join(articles)}
</article></main></body></html>
"""


def _read(path: Path) -> "BeautifulSoup":
    from bs4 import BeautifulSoup

    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _reading_order(index: "BeautifulSoup") -> list[str]:
    """The names of all pages, without ".html", as the sidebar of the landing page lists them."""
    links = [str(link["href"]) for link in index.select("nav.bd-links a.reference.internal")]
    names = ["index", *(link.partition("#")[0].removesuffix(".html") for link in links)]
    return [name for name in dict.fromkeys(names) if name]


def _slug(name: str) -> str:
    return "page-" + name.replace("/", "-")


def _heading(soup: "BeautifulSoup") -> str:
    """The text of a page's title."""
    heading = soup.select_one("article h1")
    return heading.get_text().removesuffix("#").strip() if heading else ""


def _head(pages: "dict[str, BeautifulSoup]") -> str:
    """The style sheets and MathJax, as the pages load them; paths relative to the root."""
    kept: dict[str, None] = {}
    for name, soup in pages.items():
        for element in soup.select('link[rel="stylesheet"], script'):
            source = str(element.get("href") or element.get("src") or "")
            is_maths = "mathjax" in source.lower() or "window.MathJax" in element.get_text()
            if element.name == "link" or is_maths:
                for key in ("href", "src"):
                    if element.get(key):
                        element[key] = _from_root(source, name)
                kept[str(element)] = None
    return "\n".join(kept)


def _article(name: str, soup: "BeautifulSoup", names: Any) -> str:
    """A page's article: ids of its own, links that stay within the print, solutions unfolded."""
    article = soup.select_one("article.bd-article")
    if article is None:
        return ""
    for element in article.select(NOT_PRINTED):
        element.decompose()
    for fold in article.select("details"):
        fold["open"] = ""
    for element in article.find_all(id=True):
        element["id"] = f"{_slug(name)}--{element['id']}"
    for link in article.find_all("a", href=True):
        _point_within(link, name, names)
    for picture in article.find_all(src=True):
        picture["src"] = _from_root(str(picture["src"]), name)
        del picture["loading"]  # lazy: nobody scrolls through a print
    return f'<section class="printed-page" id="{_slug(name)}">{article.decode_contents()}</section>\n'


def _point_within(link: "Tag", name: str, names: Any) -> None:
    """Make a link to a page lead to its place in the print; a link to what is not printed becomes plain text."""
    parts = urlparse(str(link["href"]))
    if parts.scheme or parts.netloc:
        return
    target = _from_root(parts.path, name).removesuffix(".html") if parts.path else name
    if target not in names:
        del link["href"]
    else:
        link["href"] = f"#{_slug(target)}--{parts.fragment}" if parts.fragment else f"#{_slug(target)}"


def _from_root(path: str, name: str) -> str:
    """A path on the page `name` as seen from the root of the site."""
    if urlparse(path).scheme or not path:
        return path
    joined: list[str] = []
    for part in (PurePosixPath(name).parent / path).parts:
        if part == "..":
            joined.pop()
        else:
            joined.append(part)
    return "/".join(joined)
