"""A real browser. Conftests import the fixture from here."""

import os
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; without it the tests are skipped, except in CI, where they fail.

    It ends with its file: as long as it is open an event loop runs in this thread, and `asyncio.run` of other tests
    fails.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if program is None:
        message = "Chromium is not installed (Debian: apt install chromium)."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=[*quiet, "--disable-sync", "--no-first-run"])
        yield running
        running.close()
