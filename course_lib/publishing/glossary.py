"""The book's glossary: the first use of each term in a chapter becomes a link to it when the book is made.

The notebooks themselves stay as they are, so that nothing of this stands in a reader's JupyterLab.
"""

import copy
import re

# Where no link may go: code, formulas, links, roles, headings, tables, HTML, what is quoted as a title.
PROTECTED = re.compile(
    r"```.*?```|`+[^`]*`+|\{[\w:]+\}`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\[[^\]]*\]\([^)]*\)|^#[^\n]*$|^\|[^\n]*$|<[^>]+>|^\([\w-]+\)=$",
    re.S | re.M,
)


def terms_of(page: str) -> list[str]:
    """The terms of a page with a `{glossary}` directive: its lines that are not indented."""
    inside = re.search(r"```\{glossary\}\n(.*?)```", page, re.S)
    return re.findall(r"(?m)^(\S.*)$", inside[1]) if inside else []


def link_terms(notebook: dict, terms: list[str]) -> dict:
    """A copy of a chapter in which the first use of each term is a link to the glossary.

    Args:
        notebook: the chapter.
        terms: as in the glossary. A plural in s counts as a use, and so does a capital at the beginning.

    Returns:
        The chapter with Sphinx's `term` roles in its Markdown cells.
    """
    notebook = copy.deepcopy(notebook)
    open_terms = sorted(terms, key=len, reverse=True)  # "KV cache" before "cache"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _link_text("".join(cell["source"]), open_terms)
    return notebook


def _link_text(text: str, open_terms: list[str]) -> str:
    """Link the terms that are still open, and take those that were found off the list."""
    for term in tuple(open_terms):
        # A term in capitals is matched as it is: "alpha" is not "ALPHA", and "LoRA" is not "QLoRA".
        first = re.escape(term[0]) if term[0].isupper() else f"[{term[0]}{term[0].upper()}]"
        pattern = re.compile(rf"(?<![\w/-]){first}{re.escape(term[1:])}s?(?![\w/-])")
        if (found := _first_outside(pattern, text)) is not None:
            start, end = found
            text = f"{text[:start]}{{term}}`{text[start:end]} <{term}>`{text[end:]}"
            open_terms.remove(term)
    return text


def _first_outside(pattern: re.Pattern, text: str) -> tuple[int, int] | None:
    """Where the pattern first matches outside of everything protected."""
    matches = list(pattern.finditer(text))
    protected = [match.span() for match in PROTECTED.finditer(text)] if matches else []
    for match in matches:
        if all(match.end() <= start or end <= match.start() for start, end in protected):
            return match.span()
    return None
