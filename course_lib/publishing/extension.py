"""The book's own Sphinx extension: numbers by chapter, readable docstrings, pages that appear at once and whose lines
break where a typesetter would break them, and where the search scorer is.

Sphinx itself can number figures and equations by section, but then it also writes section numbers before every heading.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element, document
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

CHAPTER = re.compile(r"notebooks/(\d\d)_")
FIRST_APPENDIX = 90
NUMBER_AND_UNIT = re.compile(r"(\d) (?=(?:%|[kKMGT]i?B|ms|s|min|h)(?![\w/]))")
CODE_WORD = re.compile(r'<span class="pre">([^<]+)</span>')
FORMULA_AND_MARK = re.compile(r'(<span class="math[^"]*">[^<]*</span>(?:[.,;:?!]|\)[.,;:]?))')
OPTION = re.compile(r"^--?\w+")  # how an option begins: a browser would break after its hyphens
TYPED = re.compile(r'<div class="highlight-(?:bash|shell)[^>]*>.*?</pre>', re.DOTALL)
TYPED_OPTION = re.compile(r"(?<=[\s>])--?[A-Za-z][\w-]*")
LONG_WORD = 16  # characters of code, about half a line of a phone
MAY_BREAK_AFTER = re.compile(r"(?<=[\w\])])([./_=,:]|-(?!-))(?=[\w(\[])")
NEEDED_AT_ONCE = ("documentation_options.js", "doctools.js")  # scripts in a page, and the search page's own, call them
PAPER = re.compile(r"(?<![\w/:`])arXiv:(\d{4}\.\d{4,5})")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Connect to Sphinx, which calls this for each extension in its list."""
    app.connect("config-inited", find_scorer)
    # Before napoleon, which takes the sections (Args:, Returns:) apart.
    app.connect("autodoc-process-docstring", readable_docstring, priority=400)
    # After autodoc, which adds the types of the signature, and before Sphinx makes lists of the fields.
    app.connect(
        "object-description-transform", lambda _app, _domain, _kind, body: leave_out_repeated(body), priority=900
    )
    app.connect("env-check-consistency", lambda _app, env: number_by_chapter(env))
    app.connect("doctree-resolved", lambda _app, page, _name: keep_numbers_with_units(page))
    # Last: other extensions add their scripts at the same event.
    app.connect("html-page-context", lambda _app, _name, _template, context, _page: finish_page(context), priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def find_scorer(app: "Sphinx", config: "Config") -> None:
    """Make the search scorer's path absolute: Sphinx opens it relative to the folder that the build was started in.

    Args:
        app: knows the folder of the sources.
        config: where the path stands.
    """
    config.html_search_scorer = str(Path(app.srcdir) / config.html_search_scorer)


def number_by_chapter(env: "BuildEnvironment") -> None:
    """Replace the numbers that Sphinx gave to figures and equations: it counts on through the whole book.

    Chapter 03 has 3.1, 3.2, and so on for figures and for equations, the first appendix A.1, A.2; every other page
    counts from 1.
    """
    for document, kinds in env.toc_fignumbers.items():
        chapter = CHAPTER.match(document)
        prefix = (_mark(int(chapter[1])),) if chapter else ()
        for numbers in kinds.values():
            for place, anchor in enumerate(numbers, 1):
                numbers[anchor] = (*prefix, place)


def _mark(chapter: int) -> int | str:
    """A chapter's number; the appendices, 90 and on, have letters."""
    return chapter if chapter < FIRST_APPENDIX else chr(ord("A") + chapter - FIRST_APPENDIX)


def keep_numbers_with_units(page: "document") -> None:
    """Put a no-break space between a number and its unit in running text ("0.3 %", "4 GB"), code excepted."""
    from docutils import nodes

    for text in list(page.findall(nodes.Text)):
        parent: Any = text.parent
        if isinstance(parent, nodes.literal | nodes.literal_block | nodes.math | nodes.math_block | nodes.raw):
            continue
        if NUMBER_AND_UNIT.search(text):
            parent.replace(text, nodes.Text(NUMBER_AND_UNIT.sub("\\1\N{NO-BREAK SPACE}", text)))


def finish_page(context: dict[str, Any]) -> None:
    """Change what a page's template is given: its scripts wait, long names in its code may break, and no line begins
    with the full stop after a formula.

    A script in the head holds up the first paint until it has been fetched and run. Deferred ones run in the same order
    once the page has been read, before `DOMContentLoaded`, which is what all of them wait for anyway.

    Args:
        context: Sphinx's values for the template; `script_files` and `body` are changed in place.
    """
    for script in context.get("script_files", []):
        name = str(script.filename or "")  # empty: the script's text is in the page
        if name and not name.endswith(NEEDED_AT_ONCE) and "async" not in script.attributes:
            script.attributes["defer"] = "defer"
    if context.get("body"):
        body = CODE_WORD.sub(lambda found: _word_of_code(found[1]), context["body"])
        # A command wraps on a phone, between its words.
        body = TYPED.sub(lambda found: TYPED_OPTION.sub(r'<span class="whole">\g<0></span>', found[0]), body)
        context["body"] = FORMULA_AND_MARK.sub(r'<span class="together">\1</span>', body)


def _word_of_code(word: str) -> str:
    """A word of code in HTML. A long one may break after each mark that joins two of its parts, a short one nowhere."""
    if len(word) < LONG_WORD:
        return f'<span class="pre">{word}</span>'
    parts = MAY_BREAK_AFTER.sub(r"\1<wbr>", OPTION.sub(r'<span class="whole">\g<0></span>', word))
    return f'<span class="pre long">{parts}</span>'


def leave_out_repeated(body: "Element") -> None:
    """Remove what the reference says twice: the type of a result, which is in the signature, and `Bases: object`.

    Args:
        body: the description of one class or function, changed in place.
    """
    from docutils import nodes

    for field in list(body.findall(nodes.field)):
        if field.children[0].astext() == "rtype":
            fields = field.parent
            fields.remove(field)
            if not fields.children:
                fields.parent.remove(fields)
    for paragraph in list(body.findall(nodes.paragraph)):
        if paragraph.astext() == "Bases: object":
            paragraph.parent.remove(paragraph)


def readable_docstring(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Change a docstring's lines in place: formulas keep their lines, papers become links, and a result stays whole.

    Docstrings are written for people who read code. They set a formula off by indenting it, which reST takes for a
    quotation and fills into a paragraph.

    Args:
        app: Sphinx, as for the others.
        what: "module", "class", "function", and so on.
        name: the full name.
        obj: the object itself.
        options: of the directive.
        lines: the docstring.
    """
    linked = [PAPER.sub(r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", line) for line in lines]
    lines[:] = _with_literal_blocks(_with_whole_results(linked))


def _with_whole_results(lines: list[str]) -> list[str]:
    """Begin the text below `Returns:` with a colon: napoleon takes what stands before the first colon for the type."""
    done = list(lines)
    for place, line in enumerate(lines[:-1], 1):
        if line.strip() in {"Returns:", "Yields:"} and lines[place].strip():
            done[place] = " " * _indent(lines[place]) + ": " + lines[place].lstrip()
    return done


def _with_literal_blocks(lines: list[str]) -> list[str]:
    """Put `::` before each indented block that stands alone between blank lines."""
    done: list[str] = []
    before = ""  # the last line that was not blank
    for line in lines:
        stands_alone = bool(done) and not done[-1].strip()
        deeper = _indent(line) >= _indent(before) + 4
        marked = before.rstrip().endswith("::") or before.lstrip().startswith((".. ", "- ", "* "))
        if line.strip() and stands_alone and deeper and before and not marked and not line.lstrip().startswith(">>>"):
            done += [" " * _indent(before) + "::", ""]
        done.append(line)
        if line.strip():
            before = line
    return done


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
