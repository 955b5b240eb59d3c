"""The checker of built pages finds each kind of fault, and nothing where there is none."""

import pytest

from course_lib.publishing.site_check import check_site

GOOD = '<a href="b.html#there">b</a> <img src="i.png" alt="An i"> <a href="https://elsewhere.org">out</a>'


def site(tmp_path, body):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(f"<html><body id='top'>{body}</body></html>")
    (tmp_path / "b.html").write_text("<h1 id='there'>b</h1> <a href='a.html'>a</a> <a href='#there'>self</a>")
    (tmp_path / "sub/c.html").write_text("<a href='../a.html#top'>up</a>")
    (tmp_path / "i.png").write_bytes(b"")
    return check_site(tmp_path)


def test_a_sound_site_has_no_problem(tmp_path):
    assert site(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">x</a>', "a.html: no such file: gone.html"),
        ('<a href="b.html#gone">x</a>', "a.html: no such anchor: b.html#gone"),
        ('<img src="gone.png" alt="x">', "a.html: no such file: gone.png"),
        ('<img src="i.png">', "a.html: image without alternative text: i.png"),
        ('<script src="https://cdn.example.org/x.js"></script>', "from another server: https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "from another server: //cdn.example.org/x.css"),
        ('<a href="../outside.html">x</a>', "no such file"),
    ],
)
def test_each_fault_is_found(tmp_path, body, problem):
    problems = site(tmp_path, GOOD + body)
    assert len(problems) == 1
    assert problem in problems[0]


@pytest.mark.parametrize(
    ("style", "problem"),
    [
        (
            "@import 'https://cdn.example.org/x.css';",
            "s.css: fetched from another server: https://cdn.example.org/x.css",
        ),
        ("p { background: url(//cdn.example.org/x.png) }", "from another server: //cdn.example.org/x.png"),
        ('@font-face { src: url("gone.woff2") }', "s.css: no such file: gone.woff2"),
    ],
)
def test_style_sheets_are_read_too(tmp_path, style, problem):
    (tmp_path / "s.css").write_text(f"/* url(ignored.png) */ p {{ background: url('data:,') }} {style}")
    problems = site(tmp_path, GOOD)
    assert len(problems) == 1
    assert problem in problems[0]
