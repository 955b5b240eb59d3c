"""The feedback page: what it says of each part, and what of a stranger's output never becomes HTML."""

import base64
import copy
import re
from html.parser import HTMLParser

import nbformat
import pytest
from browsing import browser  # noqa: F401
from submissions import filled

from autograder import course, notebook
from autograder.grading.gradebook.feedback import POLICY, feedback_page, sections
from autograder.judging.results import NO_SANDBOX

NAME = "kv_cache"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
EVIL = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"><a href='javascript:1'>x</a>"
MARKDOWN = "# Hi\n\n<script>document.title='run'</script> [x](javascript:alert(1))"


class Page(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def graded(name=NAME, scores=None, comment=None, edit=lambda nb: None):
    """The source with reference answers, as it is after autograding: all points but where `scores` says otherwise."""
    nb, answers = course.find(name).read(), filled(name)
    own = {notebook.grade_id(cell): cell.source for cell in answers.cells if notebook.is_solution(cell)}
    for cell in nb.cells:
        name_ = notebook.grade_id(cell)
        if notebook.is_solution(cell):
            cell.source = own[name_]
            cell.metadata.nbgrader.comment = comment
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.metadata.nbgrader.score = (scores or {}).get(name_, cell.metadata.nbgrader.points)
    edit(nb)
    return nb


def cell_of(nb, name):
    return next(cell for cell in nb.cells if notebook.grade_id(cell) == name)


def failing(name, message, ename="AssertionError", frames=()):
    def edit(nb):
        cell_of(nb, name).outputs = [nbformat.v4.new_output("error", ename=ename, evalue=message, traceback=[*frames])]

    return edit


def page_of(nb, **about):
    return feedback_page(nb, {"nbgrader": {"notebook": "kv_cache", "score": 40, "max_score": 40} | about})


def part_of(html, name):
    """The section of the part whose answer is in the cell `name`."""
    numbers = [part.id for part in notebook.parts(course.find(NAME).read())]
    number = numbers.index(f"check-{name}") + 1
    return re.search(rf'<section id="part-{number}".*?</section>', html, re.S)[0]


def test_each_part_has_its_points_and_its_answer():
    html = page_of(graded(scores={"check-top-p": 1.5, "check-min-p": 0}), score=36.5)
    page = Page(html)
    assert "36.5 of 40 points" in page.text
    assert [a.get("class") for tag, a in page.tags if tag == "section"].count("full") == 14
    assert 'class="some"' in part_of(html, "top-p")
    assert "1.5 of 3: some of the points" in Page(part_of(html, "top-p")).text
    assert "0 of 2: no points" in Page(part_of(html, "min-p")).text
    assert "def min_p_filter(probs, min_p):" in Page(part_of(html, "min-p")).text
    assert html.count('<a href="#part-') == 16


def test_no_hidden_test_is_on_it():
    html = Page(page_of(graded(edit=failing("check-top-p", "a hidden test fails: wrong for a single token")))).text
    assert "a hidden test fails: wrong for a single token" in html
    for cell in course.find(NAME).read().cells:
        hidden = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END", cell.source, re.S)
        for line in hidden[1].splitlines() if hidden else []:
            assert len(line.strip()) < 30 or line.strip() not in html


def test_a_hidden_test_that_nbgrader_ran_is_described_too():
    """nbgrader's traceback says in which line of the test cell it failed."""
    source = cell_of(course.find(NAME).read(), "check-top-p").source.splitlines()
    hidden = source.index("### BEGIN HIDDEN TESTS") + 4
    told = next(line for line in source if line.startswith("# Property: ")).removeprefix("# Property: ")
    for line, expected in [(hidden, f"a hidden test fails: {told}"), (2, "the secret is 17")]:
        frames = [f"\x1b[0;36mCell \x1b[0;32mIn[9], line {line}\x1b[0m\n----> {line} x"]
        html = page_of(graded(edit=failing("check-top-p", "the secret is 17", frames=frames)))
        assert expected in Page(html).text
        assert ("the secret is 17" in html) == (line == 2)


def test_a_partial_score_says_what_is_missing():
    def edit(nb):
        cell_of(nb, "check-top-p").outputs = [
            nbformat.v4.new_output("stream", text="ties: both tokens stay\n"),
            nbformat.v4.new_output("execute_result", data={"text/plain": "1.5"}),
        ]

    section = Page(part_of(page_of(graded(scores={"check-top-p": 1.5}, edit=edit)), "top-p")).text
    assert "1.5 of 3: some of the points" in section
    assert "ties: both tokens stay" in section


def test_what_waits_for_a_person_is_no_zero():
    nb = graded("sft", scores={"question": None})
    html = page_of(nb, score=37)
    assert "1 part is not graded yet" in html
    assert Page(html).text.count("– of 3: not graded yet") == 1


def test_comments_penalty_and_missing_sandbox():
    nb = graded(comment="Well done & < expected")
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", text=NO_SANDBOX)]
    html = page_of(nb, late_penalty=2.5, score=37.5)
    assert "Well done &amp; &lt; expected" in html
    assert "after a late penalty of 2.5" in html
    assert '<p class="warning">' in html
    assert NO_SANDBOX in Page(html).text
    assert NO_SANDBOX not in Page(page_of(graded())).text


def hostile(nb):
    """Active content wherever a student can put text."""
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": EVIL, "application/javascript": "alert(1)"}),
        nbformat.v4.new_output("display_data", data={"image/svg+xml": f"<svg onload=alert(1)>{EVIL}</svg>"}),
        nbformat.v4.new_output("display_data", data={"image/png": f'x" onerror="{EVIL}'}),
        nbformat.v4.new_output("display_data", data={"image/png": PNG}),
        nbformat.v4.new_output("display_data", data={"text/latex": EVIL, "text/markdown": EVIL}),
        nbformat.v4.new_output("execute_result", data={"text/plain": EVIL, "text/html": EVIL}),
        nbformat.v4.new_output("stream", text=f"{EVIL}\x1b[31m"),
        nbformat.v4.new_output("error", ename=EVIL, evalue=EVIL, traceback=[EVIL]),
    ]
    answer = cell_of(nb, "top-p")
    answer.source, answer.outputs = f"{answer.source}\n# {EVIL}", outputs
    answer.metadata.nbgrader.comment = EVIL
    failing("check-top-p", EVIL, ename=EVIL)(nb)
    own = nbformat.v4.new_code_cell(EVIL)
    own.outputs = copy.deepcopy(outputs)
    nb.cells.insert(nb.cells.index(answer) + 1, own)
    return nb


def hostile_page():
    nb = graded(edit=hostile, scores={"check-top-p": 0})
    return page_of(nb, notebook=EVIL)


def test_a_strangers_html_stays_text():
    page = Page(hostile_page())
    plain = "h1 h2 p strong table thead tbody tr th td a section header span pre img".split()
    assert {tag for tag, _ in page.tags} <= {"html", "head", "meta", "title", "style", "body", *plain}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        if tag == "a":
            assert attributes["href"].startswith("#part-")
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            base64.b64decode(attributes["src"].partition(",")[2], validate=True)
    assert [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    assert "document.title='run'" in page.text


def test_words_are_shown_as_they_were_written():
    nb = graded("sft")
    cell_of(nb, "question").source = MARKDOWN
    assert MARKDOWN in Page(page_of(nb)).text


def test_a_flood_is_cut():
    nb = graded()
    cell_of(nb, "top-p").outputs = [nbformat.v4.new_output("stream", text="x" * 10**7)]
    html = page_of(nb)
    assert len(html) < 200_000
    assert "(10,000,000 characters)" in html


def test_cells_of_ones_own_are_shown_with_the_part_they_are_in():
    nb = graded()
    at = nb.cells.index(cell_of(nb, "top-p"))
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell("helper = 1"))
    found = {section.part.id: section for section in sections(nb)}
    assert [cell.source for cell in found["check-top-p"].answer][1:] == ["helper = 1"]
    assert "A cell of your own" in part_of(page_of(nb), "top-p")


@pytest.mark.slow
@pytest.mark.browser
class TestInABrowser:
    def open(self, browser, tmp_path, **options):  # noqa: F811
        path = tmp_path / "feedback.html"
        path.write_text(hostile_page())
        page = browser.new_page(**options)
        said = []
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        return page, said

    def test_nothing_runs(self, browser, tmp_path):  # noqa: F811
        page, said = self.open(browser, tmp_path)
        assert page.title() != "run"
        assert said == []

    def test_it_fits_a_phone_and_the_dark(self, browser, tmp_path):  # noqa: F811
        page, _ = self.open(browser, tmp_path, viewport={"width": 360, "height": 740}, color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        channels = "getComputedStyle(document.body)"
        dark = page.evaluate(f"[{channels}.backgroundColor, {channels}.color]")
        background, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in dark)
        assert background < 150 < 600 < text
