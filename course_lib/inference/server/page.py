"""The chat page: one static file that loads nothing from any other host."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "page" / "chat.html"


@cache
def chat_page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that it is sent with.

    Its content security policy lets the browser use the page's own script and style, which it knows by their hashes,
    and talk to this server. All else is forbidden, even a script that a model's text might inject through a bug in the
    page.

    Returns:
        The HTML, and the headers by name.
    """
    html = FILE.read_text(encoding="utf-8")
    script, style = (_hash(html, tag) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
    policy += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return html, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


def _hash(html: str, tag: str) -> str:
    """The hash of what the page's only element of this kind contains, as a policy names it."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
