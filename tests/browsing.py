"""A real browser. Conftests import the fixture from here."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; without it the tests are skipped, except in CI, where they fail."""
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
