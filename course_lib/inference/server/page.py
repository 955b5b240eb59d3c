"""The chat page: one static file, which asks no other host."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "page" / "chat.html"


@cache
def chat_page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that it is sent with.

    The policy lets the browser run the page's own script and style, known by their hashes, and speak to this server;
    nothing else, not even what a bug in the page would let a model's text inject.
    """
    html = FILE.read_text(encoding="utf-8")
    script, style = (_hash(html, tag) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
    policy += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return html, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


def _hash(html: str, tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
