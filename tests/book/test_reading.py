"""What readers need from a page beside soundness: access, weight, equations, figures, search, and a print."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from visiting import PAGES, figures_of

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build/axe/node_modules/axe-core/axe.min.js"  # .ci/run installs it, pinned
HEAVIEST = 3_000_000  # bytes of a page with all that it loads
FIRST = 1_100_000  # bytes before text can be shown: the page itself and its style sheets (fonts swap in later)

SEARCH = ("searchtools.js", "language_data.js", "searchindex.js")

pytestmark = [pytest.mark.slow, pytest.mark.browser]
if "COURSE_BOOK_HTML" not in os.environ:  # one worker: they share the book that is built for them
    pytestmark.append(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="module")
def axe():
    if not AXE.is_file():
        message = "axe-core is not installed: npm install --prefix build/axe axe-core (.ci/run has the version)."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize("device", ["dark", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(visit, axe, page, device):
    if page == "genindex" and device != "dark":
        pytest.skip("thousands of the same links: looked at once")
    opened = visit(page, device)
    opened.page.wait_for_load_state("load")
    opened.evaluate("document.fonts.ready.then(() => null)")
    opened.evaluate(axe)
    found = opened.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    serious = {
        fault["id"]: [(node["target"], node["failureSummary"]) for node in fault["nodes"][:3]]
        for fault in found
        if fault["impact"] in ("serious", "critical")
    }
    assert serious == {}


@pytest.mark.parametrize("page", PAGES)
def test_page_keeps_within_its_weight(visit, server, html, page):
    """Bytes and not seconds: a loaded machine is slow, but it loads the same bytes. A reader who goes to the end of the
    page loads all its pictures."""
    opened = visit(page)
    opened.load_all()
    paths = {urlsplit(url).path.lstrip("/") for url in opened.requests if url.startswith(server)}
    bytes_of = {path: (html / path).stat().st_size for path in paths if (html / path).is_file()}
    assert f"{page}.html" in bytes_of
    pictures = opened.evaluate("[...document.images].map(image => new URL(image.src).pathname.slice(1))")
    assert set(pictures) <= bytes_of.keys()
    assert sum(bytes_of.values()) <= HEAVIEST, sorted(bytes_of.items(), key=lambda each: -each[1])[:5]
    assert sum(size for path, size in bytes_of.items() if path.endswith((".html", ".css"))) <= FIRST


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")] + ["cheat-sheet"])
def test_every_formula_is_typeset(visit, page):
    """The book carries a part of MathJax (.ci/mathjax): a formula that needs another shows its commands in red."""
    opened = visit(page)
    opened.page.wait_for_function("window.MathJax?.startup?.promise")
    opened.evaluate("MathJax.startup.promise.then(() => null)")
    count = "selector => document.querySelectorAll(selector).length"
    formulas, typeset, spoken = (
        opened.page.evaluate(count, each) for each in (".math", "mjx-container", "mjx-assistive-mml math")
    )
    assert formulas == typeset == spoken > 0
    assert opened.page.evaluate(count, "mjx-merror, mjx-mtext[style*=red]") == 0
    assert opened.errors == []


AT_ONCE = 12_000  # bytes: Sphinx's options, and the helpers that scripts within a page call


@pytest.mark.parametrize("page", ["index", "notebooks/08_kv_cache", "api/course_lib.adapters", "search"])
def test_scripts_do_not_hold_up_the_first_paint(visit, html, page):
    """A browser shows nothing before a script in the head has run, unless the script is deferred."""
    opened = visit(page)
    script = "[...document.head.querySelectorAll('script[src]')].filter(s => !s.defer && !s.async).map(s => s.src)"
    holding_up = [urlsplit(url).path.lstrip("/") for url in opened.evaluate(script)]
    if page == "search":  # it has nothing to show before its index, but what it finds
        holding_up = [path for path in holding_up if Path(path).name not in SEARCH]
    assert sum((html / path).stat().st_size for path in holding_up) <= AT_ONCE, holding_up
    assert opened.errors == []


@pytest.mark.parametrize("page", ["index", "assignments/index", "cluster", "runs", "serving", "architecture"])
def test_tables_of_prose_fit_a_phone(visit, page):
    """A table that is too wide becomes cards, each cell of which names its column."""
    opened = visit(page, "phone")
    opened.evaluate("document.fonts.ready.then(() => null)")
    tables = ".bd-article .pst-scrollable-table-container"
    wide = f"[...document.querySelectorAll('{tables}')].filter(t => t.scrollWidth > t.clientWidth + 1).length"
    opened.page.wait_for_function(f"{wide} === 0")
    if page == "assignments/index":
        labels = "[...document.querySelectorAll('table.stacked tbody tr')[0].cells].map(c => c.dataset.label ?? '')"
        assert opened.evaluate(labels) == ["", "after chapter", "you write", "parts", "points", "time"]


def test_what_is_wider_than_a_phone_says_that_it_scrolls(visit):
    opened = visit("notebooks/03_lora", "phone")
    opened.page.wait_for_selector(".scroll-hint")
    script = """[...document.querySelectorAll('.bd-article *')].filter(box =>
        box.clientWidth && box.scrollWidth > box.clientWidth + 1
        && ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
        && !(box.hasAttribute('data-scrolls') && box.tabIndex === 0
             && box.nextElementSibling?.matches('.scroll-hint'))
      ).map(box => box.outerHTML.slice(0, 120))"""
    assert opened.evaluate(script) == []
    assert opened.page.locator(".scroll-hint").first.inner_text().startswith("scroll")


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_equations_are_numbered_by_chapter_and_not_hidden_behind_their_numbers(visit, device):
    opened = visit("notebooks/03_lora", device)
    opened.page.wait_for_selector("mjx-container mjx-math")
    numbers = opened.evaluate("[...document.querySelectorAll('.eqno')].map(n => n.innerText.replace('#', '').trim())")
    assert numbers == [f"(3.{place})" for place in range(1, len(numbers) + 1)]
    assert len(numbers) >= 3
    script = """[...document.querySelectorAll('div.math:has(> .eqno)')].filter(box => {
        const [a, b] = ['.eqno', 'mjx-container'].map(name => box.querySelector(name).getBoundingClientRect());
        return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
      }).map(box => box.id)"""
    assert opened.evaluate(script) == []
    link = opened.page.locator("article a.reference.internal", has_text="(3.").first
    assert link.get_attribute("href").startswith("#equation-")


@pytest.mark.parametrize(
    "page", ["assignments/lora", "assignments/qlora", "assignments/kv_cache", "notebooks/08_kv_cache"]
)
def test_the_hint_below_a_wide_equation_leaves_it_its_width(visit, page):
    opened = visit(page, "phone")
    opened.page.wait_for_selector("mjx-container[display='true'] mjx-math")
    opened.evaluate("MathJax.startup.promise.then(() => null)")
    script = """[...document.querySelectorAll('.bd-article mjx-container[display="true"]')]
      .filter(box => box.clientWidth < 0.8 * box.closest('section').clientWidth).map(box => box.innerText)"""
    assert opened.evaluate(script) == []


def test_figures_have_numbered_captions_and_stay_vectors(visit):
    opened = visit("notebooks/03_lora")
    captions = opened.evaluate("[...document.querySelectorAll('.cell_output figcaption')].map(c => c.innerText)")
    assert len(captions) == figures_of("03_lora")
    for place, caption in enumerate(captions, 1):
        assert caption.startswith(f"Figure 3.{place} ")
    kinds = opened.evaluate(
        "[...document.querySelectorAll('.cell_output figure img')].map(i => i.src.split('.').pop())"
    )
    assert set(kinds) == {"svg"}


def test_code_that_only_plots_is_folded(visit):
    opened = visit("notebooks/03_lora")
    folds = opened.page.locator("div.cell details.hide.above-input")
    assert folds.count() == figures_of("03_lora")
    assert not folds.first.locator("pre").is_visible()


def results(visit, server, query):
    opened = visit("search")
    opened.page.goto(f"{server}/search.html?q={query}", wait_until="networkidle")
    opened.page.wait_for_selector("#search-results li a")
    return opened, opened.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.href)")


@pytest.mark.parametrize("query", ["rank", "adapter", "merge", "cache", "loss"])
def test_search_ranks_chapters_above_the_reference(visit, server, query):
    _, found = results(visit, server, query)
    kinds = ["notebooks/" in url for url in found]
    assert kinds[0] or "/glossary.html#" in found[0], found[:5]
    assert not any("/api/" in url for url in found[: kinds.count(True)]), found[:8]


def test_search_for_a_name_of_code_finds_it_first(visit, server):
    _, found = results(visit, server, "inject_lora")
    assert "/api/course_lib.adapters.html#course_lib.adapters.lora.inject_lora" in found[0]


SLIPS = {"Foundatons": "foundations", "adpater": "adapter"}  # codespell:ignore adpater


@pytest.mark.parametrize(("slip", "meant"), SLIPS.items())
def test_search_forgives_one_slip(visit, server, slip, meant):
    opened, found = results(visit, server, slip)
    assert any("notebooks/" in url for url in found[:2]), found[:5]
    assert f"“{meant}”" in opened.page.locator(".search-corrected").inner_text()


def test_landing_page_starts_a_reader(visit, server):
    opened = visit("index")
    opened.page.get_by_role("link", name="Start here").click()
    opened.page.wait_for_load_state()
    assert opened.page.url == f"{server}/how-to-use.html"
    text = opened.evaluate("document.body.innerText")
    assert "REPOSITORY" not in text
    assert re.search(r"git clone https://\S+ course", text)


def test_words_on_a_phone_do_not_break_inside(visit):
    """Each heading's and each table link's longest word fits its line: it is one box high."""
    opened = visit("index", "phone")
    script = """[...document.querySelectorAll('.bd-article :is(h1, h2, td a, td code, p a)')].flatMap(element => {
        const broken = [], walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
        for (let node; (node = walker.nextNode()); ) {
          for (const word of node.data.matchAll(/[A-Za-z]{2,}/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) broken.push(word[0]);
          }
        }
        return broken;
      })"""
    assert opened.evaluate(script) == []


def test_parity_lines_show_tolerance_and_reason_on_a_phone(visit):
    opened = visit("parity", "phone")
    line = opened.page.locator("table.parity tbody tr").first
    for label in ("allowed", "why this much"):
        box = line.locator(f"td[data-label='{label}']").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_the_book_prints_to_a_pdf_with_contents(html, tmp_path):
    program = "import sys; from pathlib import Path; from course_lib.publishing.pdf import write_pdf as write; "
    program += "write(Path(sys.argv[1]), Path(sys.argv[2]))"
    # In a process of its own: playwright's other browser already has this thread's event loop.
    subprocess.run([sys.executable, "-c", program, html, tmp_path / "book.pdf"], check=True, cwd=ROOT)
    data = (tmp_path / "book.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert pages > 100
    assert b"/Outlines" in data
    assert not (html / ".print.html").exists()
