"""`course book`: skips what is current, fails on warnings, and never replaces a good book by a bad one."""

import socket
import threading
import time
import urllib.request

import pytest

from course_lib.errors import CourseError
from course_lib.publishing import build as book
from course_lib.publishing.serve import serve


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A root and a book of one page whose text is `tiny.text`; Jupyter Book is a stand-in that counts its calls."""

    class Tiny:
        text = "# Title\n"
        pages = "<p>fine</p>"
        calls = 0
        out = tmp_path / "out/html"

        def build(self, **options):
            return book.build(tmp_path, tmp_path / "runs", self.out, **options)

    tiny = Tiny()

    def assemble(_root, _runs, sources, _repository):
        sources.mkdir(parents=True)
        (sources / "index.md").write_text(tiny.text)
        (sources / "_toc.yml").write_text("format: jb-book\nroot: index\n")
        (sources / "_config.yml").write_text("title: Tiny\n")

    def jupyter_book(_sources, work):
        tiny.calls += 1
        work.mkdir(parents=True)
        (work / "index.html").write_text(tiny.pages)
        return work

    monkeypatch.setattr(book, "assemble", assemble)
    tiny.real = book._jupyter_book
    monkeypatch.setattr(book, "_jupyter_book", jupyter_book)
    tiny.use_real = lambda: monkeypatch.setattr(book, "_jupyter_book", tiny.real)
    return tiny


def test_only_what_changed_is_built_again(tiny):
    assert [tiny.build(), tiny.build(), tiny.build(force=True)] == [True, False, True]
    tiny.text = "# Another title\n"
    assert tiny.build() is True
    assert tiny.calls == 3


def test_the_last_good_book_survives_a_bad_build(tiny):
    tiny.build()
    tiny.text, tiny.pages = "# Changed\n", '<a href="gone.html">x</a>'
    with pytest.raises(CourseError, match="index.html: no such file: gone.html"):
        tiny.build()
    assert (tiny.out / "index.html").read_text() == "<p>fine</p>"
    with pytest.raises(CourseError):  # and the bad one does not count as built
        tiny.build()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("# Title\n\n{doc}`nowhere`\n", r"  index.md:3: WARNING: unknown document: '?nowhere"),
        ("# Title\n\n[gone](nowhere.md)\n", r"  index.md:3: WARNING: .*nowhere.md"),
        ("# Title\n\n{eq}`nothing`\n", r"  index.md:3: WARNING: equation not found: nothing"),
    ],
)
def test_a_warning_fails_the_build_and_is_shown(tiny, text, warning):
    tiny.use_real()
    tiny.text = text
    with pytest.raises(CourseError, match=warning):
        tiny.build()
    assert not tiny.out.exists()


@pytest.mark.slow
def test_a_bad_book_fails_the_second_time_too(tiny):
    """Jupyter Book itself exits with 0 then: it does not read an unchanged page again, so nothing warns."""
    tiny.build()
    tiny.use_real()
    tiny.text = "# Title\n\n{doc}`nowhere`\n"
    for _ in range(2):
        with pytest.raises(CourseError, match="index.md:3: WARNING: unknown document"):
            tiny.build()
    assert (tiny.out / "index.html").read_text() == "<p>fine</p>"


def test_serving_takes_the_next_free_port(tmp_path, capfd):
    (tmp_path / "index.html").write_text("<p>here</p>")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        threading.Thread(target=serve, args=(tmp_path, port), daemon=True).start()
        said = ""
        for _ in range(100):
            said += capfd.readouterr().out
            if "serving on" in said:
                break
            time.sleep(0.05)
    address = said.split()[2]
    assert address != f"http://localhost:{port}"
    with urllib.request.urlopen(address.replace("localhost", "127.0.0.1")) as answer:
        assert answer.read() == b"<p>here</p>"
