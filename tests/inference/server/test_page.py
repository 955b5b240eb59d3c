"""The chat page in a real browser."""

import pytest
from scripted_engine import ScriptedEngine, endless, wait_until

from course_lib.inference.server.page import chat_page
from course_lib.inference.server.requests import Piece

pytestmark = pytest.mark.browser
DARK, LIGHT = "rgb(22, 24, 29)", "rgb(255, 255, 255)"


@pytest.fixture
def opened(browser, listening):
    """opened(engine, **options): the page of a server, which may ask nobody else, with its complaints collected."""
    contexts = []

    def make(engine, size=(1000, 800), scheme="light", **options):
        address = listening(engine, **options)
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.asked = [], []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.address = address
        return page

    yield make
    for context in contexts:
        context.close()


def say(page, text):
    page.fill("#input", text)
    page.press("#input", "Enter")


def test_a_conversation_that_streams_and_switches_adapters(opened):
    engine = ScriptedEngine(delay=0.02, max_positions=999)
    page = opened(engine)
    page.wait_for_selector("#model option[value=two]", state="attached")
    assert page.eval_on_selector_all("#model option", "all => all.map(each => each.textContent)") == [
        "tiny", "one (adapter)", "two (adapter)"
    ]  # fmt: skip
    say(page, "hi")
    page.wait_for_selector(".assistant .text:has-text('base:')")
    assert page.is_visible("#stop")  # the text is there while more is to come
    page.wait_for_selector(".assistant .speed:has-text('tokens/s')")
    assert page.text_content(".assistant .speed").startswith("19 tokens in ")
    page.select_option("#model", "two")
    say(page, "more")
    page.wait_for_selector(".turn:nth-child(4) .speed:has-text('tokens/s')")
    assert page.text_content(".turn:nth-child(4) .text").startswith("two:")
    assert page.text_content(".turn:nth-child(4) .who") == "two"
    first, second = engine.requests
    assert (first.adapter, second.adapter) == (None, "two")
    assert second.prompt[: len(first.prompt)] == first.prompt  # the conversation so far comes first
    page.click("#reset")
    assert page.query_selector(".turn") is None
    assert page.complaints == []
    assert {url for url in page.asked if not url.startswith((page.address, "data:"))} == set()


def test_what_a_model_writes_stays_text(opened):
    evil = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>\n<b>bold</b> &amp;\n# x"

    def script(request):
        yield Piece((1,), evil, "stop")

    page = opened(ScriptedEngine(script))
    say(page, "<i>me</i>")
    page.wait_for_selector(".assistant .speed:has-text('tokens/s')")
    assert page.text_content(".assistant .text") == evil
    assert page.text_content(".user .text") == "<i>me</i>"
    assert page.query_selector(".text *") is None
    assert page.title() == "Chat"
    assert page.complaints == []


def test_the_policy_stops_a_script_even_if_the_page_had_a_hole(opened):
    page = opened(ScriptedEngine())
    page.evaluate(
        """() => { document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="document.title=1">'); }"""
    )
    page.wait_for_timeout(200)
    assert page.title() == "Chat"
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_stopping_frees_the_slot(opened):
    engine = ScriptedEngine(endless, delay=0.01)
    page = opened(engine)
    say(page, "hi")
    page.wait_for_selector(".assistant .text:has-text('on on on')")
    page.click("#stop")
    page.wait_for_selector(".assistant .speed:has-text('stopped')")
    wait_until(lambda: not engine.running)
    assert page.is_visible("#send")
    say(page, "again")
    page.wait_for_selector(".turn:nth-child(4)")
    page.close()
    wait_until(lambda: not engine.running)  # closing the page is leaving, too


def broken(request):
    yield Piece((1,), "Once upon ")
    yield Piece(finish_reason="error", error="The model broke.")


def test_errors_are_shown(opened):
    page = opened(ScriptedEngine(broken))
    say(page, "hi")
    page.wait_for_selector("[role=alert]:has-text('The model broke.')")
    assert page.text_content(".assistant .text") == "Once upon "
    page = opened(ScriptedEngine(places=0))
    say(page, "hi")
    page.wait_for_selector("[role=alert]:has-text('requests wait already')")
    assert page.query_selector(".assistant") is None


def test_an_api_key(opened):
    page = opened(ScriptedEngine(), api_key="secret")
    page.wait_for_selector("[role=alert]:has-text('API key')")
    page.fill("#key", "secret")
    page.press("#key", "Tab")
    page.wait_for_selector("#model option[value=two]", state="attached")
    say(page, "hi")
    page.wait_for_selector(".assistant .speed:has-text('tokens/s')")


def test_a_model_without_a_chat_template_goes_on(opened, letters):
    engine = ScriptedEngine()
    page = opened(engine, tokenizer=letters)
    page.wait_for_selector("#model option[value=two]", state="attached")
    page.evaluate("document.querySelector('details').open = true")
    page.fill("#tokens", "5")
    say(page, "abc")
    page.wait_for_selector(".assistant .speed:has-text('3 tokens')")
    assert len(engine.requests[0].prompt) == 3


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize(("scheme", "first", "second"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_dark_and_light(opened, scheme, first, second):
    page = opened(ScriptedEngine(), scheme=scheme)
    assert background(page) == first
    page.click("#theme")
    assert background(page) == second
    page.click("#theme")
    assert background(page) == first


def test_on_a_phone(opened):
    def script(request):
        yield Piece((1,), "word" * 100, "stop")

    page = opened(ScriptedEngine(script, max_positions=999), size=(360, 640))
    say(page, "w" * 300)
    page.wait_for_selector(".assistant .speed:has-text('tokens/s')")
    page.evaluate("document.querySelector('details').open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#send").bounding_box()
    assert box["x"] + box["width"] <= 360
    assert box["y"] + box["height"] <= 640
    assert box["height"] >= 38


def test_one_file_without_other_hosts():
    html, headers = chat_page()
    assert "http://" not in html
    assert "https://" not in html
    assert "innerHTML" not in html
    assert "default-src 'none'" in headers["Content-Security-Policy"]
