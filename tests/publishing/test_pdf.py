"""The page that is printed: one article after another, links that stay within, nothing folded away."""

import pytest
from bs4 import BeautifulSoup

from course_lib.errors import CourseError
from course_lib.publishing import pdf

PAGE = """<html><head><link rel="stylesheet" href="{up}_static/book.css"><script src="{up}_static/book.js"></script>
<script src="{up}_static/mathjax/mathjax.js"></script></head><body>
<nav class="bd-links"><a class="reference internal" href="how-to-use.html">How</a>
<a class="reference internal" href="notebooks/03_lora.html">LoRA</a>
<a class="reference internal" href="api/index.html">API</a></nav>
<article class="bd-article"><section id="top"><h1>{title}<a class="headerlink" href="#top">#</a></h1>{body}</section>
</article></body></html>"""
BODIES = {
    "index": ("The book", "", '<a href="notebooks/03_lora.html#top">LoRA</a> <a href="api/index.html">API</a>'),
    "how-to-use": ("How", "", '<a href="https://example.org/">out</a> <a href="index.html">back</a>'),
    "notebooks/03_lora": (
        "LoRA",
        "../",
        '<details class="hide above-input">code</details><details class="solution"><p>solved</p></details>'
        '<img src="../_images/a.svg" alt="a"> <a href="#top">up</a> <a href="../how-to-use.html">how</a>',
    ),
    "api/index": ("API", "../", ""),
}


@pytest.fixture
def printed(tmp_path):
    for name, (title, up, body) in BODIES.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PAGE.format(title=title, up=up, body=body))
    return BeautifulSoup(pdf.print_page(tmp_path), "html.parser")


def test_pages_follow_each_other_in_the_order_of_the_sidebar_without_the_reference(printed):
    sections = [section["id"] for section in printed.select("section.printed-page")]
    assert sections == ["page-index", "page-how-to-use", "page-notebooks-03_lora"]
    assert [link["href"] for link in printed.select(".printed-title a")] == [f"#{name}" for name in sections]
    assert [link.text for link in printed.select(".printed-title a")] == ["The book", "How", "LoRA"]


def test_every_link_within_the_print_has_its_target(printed):
    ids = {element["id"] for element in printed.find_all(id=True)}
    assert len(ids) == len(printed.find_all(id=True))
    links = [link["href"] for link in printed.find_all("a", href=True)]
    assert [link for link in links if link.startswith("#") and link[1:] not in ids] == []
    assert [link for link in links if not link.startswith("#")] == ["https://example.org/"]
    assert "#page-notebooks-03_lora--top" in links


def test_pictures_styles_and_mathematics_are_found_from_the_root(printed):
    assert printed.img["src"] == "_images/a.svg"
    assert [link["href"] for link in printed.select("link")] == ["_static/book.css"]
    assert [script["src"] for script in printed.select("script")] == ["_static/mathjax/mathjax.js"]


def test_solutions_are_open_and_folded_code_is_left_out(printed):
    assert printed.select("details.hide") == []
    assert printed.select_one("details.solution").has_attr("open")


def test_a_machine_without_chromium_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda _name: None)
    with pytest.raises(CourseError, match="Chromium, which is not installed"):
        pdf.write_pdf(tmp_path, tmp_path / "book.pdf")
