"""Checks of built pages: every internal link leads somewhere, and nothing on a page comes from another server."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

# What a browser fetches when a page opens; an <a href> is only followed by a reader.
FETCHED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
}
LINK_THAT_IS_NOT_FETCHED = {"canonical", "next", "prev", "search", "index", "license", "author"}


class _Page(HTMLParser):
    """The ids, the links and the fetched resources of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.images_without_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what `check_site` asks for; HTMLParser calls this at each start tag.

        Args:
            tag: the element's name, "a" for one.
            attrs: (name, value) of each attribute.
        """
        attributes = {key: value or "" for key, value in attrs}  # one without a value has None
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img" and "alt" not in attributes:
            self.images_without_alt.append(attributes.get("src", "?"))
        if tag == "link" and attributes.get("rel", "") in LINK_THAT_IS_NOT_FETCHED:
            return
        for key, value in attrs:
            if (tag, key) in FETCHED and value:
                self.fetched.append(value)


def check_site(html: Path) -> list[str]:
    """The problems of all pages and style sheets under `html`, one line each; empty where there are none.

    A problem is a dead internal link, a resource that another server would have to give, or an image without an alt
    attribute.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(html.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if "_static" not in path.relative_to(html).parts}
    problems = _style_problems(html)
    for path, page in pages.items():
        name = path.relative_to(html)
        problems += [f"{name}: image without alternative text: {src}" for src in page.images_without_alt]
        for url in page.fetched:
            if _is_foreign(url):
                problems.append(f"{name}: fetched from another server: {url}")
        for url in {*page.links, *page.fetched}:
            if (reason := _dead(url, path, html, pages)) is not None:
                problems.append(f"{name}: {reason}: {url}")
    return sorted(set(problems))


def _style_problems(html: Path) -> list[str]:
    """Problems with what style sheets fetch: fonts and pictures in url(...), other sheets in @import."""
    problems = []
    for path in sorted(html.rglob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for url in re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""", text):
            if _is_foreign(url):
                problems.append(f"{path.relative_to(html)}: fetched from another server: {url}")
            elif not url.startswith(("data:", "#", "url(")) and not (path.parent / urlparse(url).path).is_file():
                problems.append(f"{path.relative_to(html)}: no such file: {url}")
    return problems


def _is_foreign(url: str) -> bool:
    return bool(urlparse(url).netloc)


def _dead(url: str, page: Path, html: Path, pages: dict[Path, _Page]) -> str | None:
    """Why an internal link leads nowhere, or None."""
    parts = urlparse(url)
    if parts.scheme or parts.netloc:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "no such file"
    if not target.is_relative_to(html.resolve()):
        return "outside the book"
    anchor = unquote(parts.fragment)
    known = pages.get(html / target.relative_to(html.resolve()))
    if anchor and known is not None and anchor not in known.ids:
        return "no such anchor"
    return None
