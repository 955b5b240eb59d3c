"""Pages and devices that the browser tests look at, and one page opened on one of them."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEVICES = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}
PROSE = ["index", "how-to-use", "assignments/index", "assignments/lora", "runs", "parity", "data-sets", "references"]
PAGES = [
    *PROSE,
    "licence",
    "student-guide",
    "instructor-guide",
    "write-an-assignment",
    "notebooks/00_foundations",
    "notebooks/01_datasets",
    "notebooks/02_full_finetuning",
    "notebooks/03_lora",
    "notebooks/04_merging",
    "notebooks/05_qlora",
    "notebooks/06_sft",
    "notebooks/07_preferences",
    "notebooks/08_kv_cache",
    "notebooks/09_cluster",
    "notebooks/90_lora_laboratory",
    "notebooks/91_butterflies",
    "libraries",
    "troubleshooting",
    "glossary",
    "cheat-sheet",
    "teaching-notes",
    "api/index",
    "api/course_lib.adapters",
    "genindex",
]


class Visit:
    """One page opened on one device, with all that went wrong on the way."""

    def __init__(self, browser, server, page, device):
        self.context = browser.new_context(**DEVICES[device])
        self.page, self.errors, self.requests = self.context.new_page(), [], []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self.failed)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{server}/{page}.html", wait_until="networkidle")

    def failed(self, request):
        if request.failure != "net::ERR_ABORTED":  # that is a page being left before its last picture came
            self.errors.append(f"failed: {request.url}")

    def evaluate(self, script):
        return self.page.evaluate(script)

    def load_all(self):
        """Load the pictures below the screen too, which come when a reader gets near them."""
        self.evaluate("document.querySelectorAll('img[loading=lazy]').forEach(image => (image.loading = 'eager'))")
        self.page.wait_for_function("[...document.images].every(image => image.complete)")

    def overhang(self):
        """How many pixels the page is wider than the screen (innerWidth would not do: on a phone it grows along)."""
        return self.evaluate("document.documentElement.scrollWidth") - self.page.viewport_size["width"]

    def foreign(self, server):
        return [url for url in self.requests if not url.startswith((server, "data:", "blob:"))]


def figures_of(chapter):
    """How many figures the chapter's notebook describes."""
    notebook = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return sum("mystnb" in cell["metadata"] for cell in notebook["cells"])
