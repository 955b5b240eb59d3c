"""The built pages in a real browser: what a reader on a desktop, on a phone and at night sees."""

import os
from pathlib import Path

import pytest
from visiting import DEVICES, PAGES, figures_of

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("COURSE_SCREENSHOTS", ROOT / "build/screenshots"))
pytestmark = [pytest.mark.slow, pytest.mark.browser]
if "COURSE_BOOK_HTML" not in os.environ:  # one worker: they share the book that is built for them
    pytestmark.append(pytest.mark.xdist_group("browser"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("page", PAGES)
def test_page_is_sound(visit, server, page, device):
    opened = visit(page, device)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SCREENSHOTS / f"{page.replace('/', '-')}-{device}.png", full_page=page != "genindex")

    assert opened.errors == []
    assert opened.foreign(server) == [], "a page must ask no other server for anything"
    assert opened.evaluate("document.querySelectorAll('h1').length") >= 1
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth && i.offsetParent).map(i => i.src)"
    assert opened.evaluate(broken) == []
    assert opened.evaluate("[...document.images].filter(i => !i.alt).map(i => i.src)") == []
    assert opened.overhang() <= 1, "the page scrolls sideways"


def test_no_page_errs_or_scrolls_sideways_on_a_phone(visit, server, html):
    """Every page there is, the source listings too; the few of PAGES are looked at more closely above."""
    pages = sorted(path for path in html.rglob("*.html") if "_static" not in path.parts)
    assert len(pages) > len(PAGES)
    opened = visit("index", "phone")
    too_wide = {}
    for path in pages:
        opened.page.goto(f"{server}/{path.relative_to(html).as_posix()}", wait_until="load")
        if (overhang := opened.overhang()) > 1:
            too_wide[path.name] = overhang
    assert too_wide == {}
    assert opened.errors == []
    assert opened.foreign(server) == []


def test_book_opens_from_the_file_system(visit, html):
    """`course book` says: open that file in a browser. Maths and search must not need a server (only the excerpts
    below search results do: a browser lets no file read another)."""
    opened = visit("index")
    opened.page.goto((html / "notebooks/03_lora.html").as_uri())
    opened.page.wait_for_selector("mjx-container mjx-math")
    assert opened.errors == []
    opened.page.goto((html / "search.html").as_uri() + "?q=Kaiming")
    opened.page.wait_for_selector("#search-results li a")


def test_mathematics_is_typeset(visit):
    opened = visit("notebooks/03_lora")
    opened.page.wait_for_selector("mjx-container mjx-math")
    assert opened.evaluate("document.querySelectorAll('mjx-container[display=true]').length") >= 3
    assert opened.evaluate("document.querySelectorAll('mjx-merror').length") == 0
    assert "$$" not in opened.evaluate("document.querySelector('article').innerText")


def test_chapter_shows_figures_and_hides_library_warnings(visit):
    opened = visit("notebooks/03_lora")
    alts = opened.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => i.alt)")
    assert len(alts) == figures_of("03_lora")
    assert all(len(alt) > 40 for alt in alts), "an alternative text says what the figure shows"
    assert "not for readers" not in opened.evaluate("document.body.innerText")
    assert opened.evaluate("[...document.querySelectorAll('.tag_injected-parameters')].length") == 0


@pytest.mark.parametrize(("device", "theme"), [("desktop", "light"), ("dark", "dark")])
def test_text_can_be_read_in_both_themes(visit, device, theme):
    """WCAG AA asks for a contrast of 4.5 between text and ground."""
    opened = visit("notebooks/03_lora", device)
    assert opened.evaluate("document.documentElement.dataset.theme") == theme
    script = """() => {
      const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
      const light = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number);
        return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
      const ground = e => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$|transparent/.test(c)) return c; }
        return 'rgb(255,255,255)'; };
      const of = selector => { const e = document.querySelector(selector);
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05); };
      return {p: of('article p'), output: of('.cell_output pre'), link: of('article p a')};
    }"""
    ratios = opened.evaluate(script)
    assert all(ratio >= 4.5 for ratio in ratios.values()), ratios


def test_launch_and_download_buttons(visit):
    opened = visit("notebooks/03_lora")
    links = opened.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
    assert any("mybinder.org/v2/gh/" in url and url.endswith("lab/tree/notebooks/03_lora.ipynb") for url in links)
    assert any(
        "colab.research.google.com" in url and url.endswith("/blob/colab/notebooks/03_lora.ipynb") for url in links
    )
    assert any(url.endswith("_sources/notebooks/03_lora.ipynb") for url in links)


def test_assignment_can_be_downloaded(visit):
    opened = visit("assignments/lora")
    link = opened.page.locator("article a.download").first
    with opened.page.expect_download() as download:
        link.click()
    assert '"nbformat"' in Path(download.value.path()).read_text()


def test_search_works_without_a_server_elsewhere(visit, server):
    opened = visit("search")
    opened.page.goto(f"{server}/search.html?q=Kaiming", wait_until="networkidle")
    opened.page.wait_for_selector("#search-results li a")
    assert opened.page.locator("#search-results li a").count() >= 1
    assert opened.errors == []


def test_solutions_are_folded_until_asked_for(visit):
    opened = visit("notebooks/03_lora")
    solution = opened.page.locator("details.solution").first
    body = solution.locator("p").first
    assert not body.is_visible()
    solution.locator("summary").click()
    assert body.is_visible()


def test_code_names_lead_to_the_reference(visit):
    opened = visit("notebooks/03_lora")
    opened.page.locator("article a.reference.internal", has_text="LoRALinear").first.click()
    opened.page.wait_for_load_state()
    assert "api/course_lib.adapters" in opened.page.url
    assert opened.page.locator("dt#course_lib\\.adapters\\.lora\\.LoRALinear").is_visible()
