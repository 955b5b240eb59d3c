"""Figures and equations are numbered within their chapter; docstrings keep their formulas and link their papers."""

from types import SimpleNamespace

from docutils import nodes
from docutils.utils import new_document

from course_lib.publishing.extension import (
    finish_page,
    keep_numbers_with_units,
    leave_out_repeated,
    number_by_chapter,
    readable_docstring,
)


def test_chapters_count_for_themselves_and_other_pages_from_one():
    numbers = {
        "index": {"figure": {"id1": (1,)}},
        "notebooks/00_foundations": {"displaymath": {"equation-a": (1,), "equation-b": (2,)}, "figure": {"id1": (2,)}},
        "notebooks/03_lora": {"displaymath": {"equation-c": (3,)}, "figure": {"id1": (3,), "id2": (4,)}},
        "notebooks/91_butterflies": {"figure": {"id1": (5,)}},
        "notebooks/90_lora_laboratory": {"displaymath": {"equation-e": (5,)}},
        "serving": {"displaymath": {"equation-d": (4,)}},
    }
    number_by_chapter(SimpleNamespace(toc_fignumbers=numbers))
    assert numbers["index"]["figure"] == {"id1": (1,)}
    assert numbers["notebooks/00_foundations"]["displaymath"] == {"equation-a": (0, 1), "equation-b": (0, 2)}
    assert numbers["notebooks/03_lora"]["displaymath"] == {"equation-c": (3, 1)}
    assert numbers["notebooks/03_lora"]["figure"] == {"id1": (3, 1), "id2": (3, 2)}
    assert numbers["notebooks/91_butterflies"]["figure"] == {"id1": ("B", 1)}
    assert numbers["notebooks/90_lora_laboratory"]["displaymath"] == {"equation-e": ("A", 1)}
    assert numbers["serving"]["displaymath"] == {"equation-d": (1,)}


def processed(text):
    lines = text.splitlines()
    readable_docstring(None, "function", "f", None, None, lines)
    return "\n".join(lines)


def test_a_formula_keeps_its_lines():
    text = "Two parts (Hu 2021, arXiv:2106.09685):\n\n    W' = W + s B A\n    s = alpha / r\n\nMore.\n"
    link = "`arXiv:2106.09685 <https://arxiv.org/abs/2106.09685>`__"
    formula = "::\n\n    W' = W + s B A\n    s = alpha / r\n\nMore."
    assert processed(text) == f"Two parts (Hu 2021, {link}):\n\n{formula}"


def test_sections_examples_and_marked_blocks_stay_as_they_are():
    text = "One.\n\n::\n\n    a\n    b\n\nArgs:\n    x: one.\n        Two.\n\nExample:\n    >>> f()\n    1"
    assert processed(text) == text


def test_a_result_with_a_colon_in_its_text_stays_whole():
    """napoleon takes what stands before the first colon for the type, and would print the text in two pieces."""
    from sphinx.ext.napoleon import Config, GoogleDocstring

    text = "Cut.\n\nReturns:\n    Two tables. first: of rows.\n    second: of columns.\n"
    assert processed(text) == text.replace("Two", ": Two").rstrip("\n")
    described = str(GoogleDocstring(processed(text), Config(napoleon_use_rtype=True)))
    assert ":returns: Two tables. first: of rows.\n          second: of columns." in described
    assert ":rtype:" not in described
    assert ":rtype: Two tables. first" in str(GoogleDocstring(text, Config(napoleon_use_rtype=True)))


def test_a_description_repeats_neither_the_result_s_type_nor_the_base_of_all_classes():
    def described(*names):
        fields = [nodes.field("", nodes.field_name(text=name), nodes.field_body()) for name in names]
        bases = [nodes.paragraph(text=f"Bases: {base}") for base in ("object", "Module")]
        return nodes.container("", *bases, nodes.field_list("", *fields))

    body = described("param x", "rtype", "returns")
    leave_out_repeated(body)
    assert [name.astext() for name in body.findall(nodes.field_name)] == ["param x", "returns"]
    assert [text.astext() for text in body.findall(nodes.paragraph)] == ["Bases: Module"]
    body = described("rtype")
    leave_out_repeated(body)
    assert list(body.findall(nodes.field_list)) == []


class TestFinishedPage:
    """What the template of a page is given."""

    @staticmethod
    def script(filename, **attributes):
        return SimpleNamespace(filename=filename, attributes=attributes)

    def test_scripts_wait_until_the_page_has_been_read(self):
        options, tools = self.script("_static/documentation_options.js"), self.script("_static/doctools.js")
        copying, inside, fetched = (
            self.script("_static/copybutton.js"),
            self.script("", body="let x"),
            self.script("y.js"),
        )
        fetched.attributes["async"] = "async"
        finish_page({"script_files": [options, tools, copying, inside, fetched]})
        assert copying.attributes == {"defer": "defer"}
        # What a script in the page needs, what is in the page, and what waits for nobody stay as they are.
        assert options.attributes == tools.attributes == {}
        assert inside.attributes == {"body": "let x"}
        assert fetched.attributes == {"async": "async"}

    def test_a_long_name_may_break_at_its_joints_and_nowhere_else(self):
        short = '<code><span class="pre">--seed</span></code>'
        context = {
            "body": f'{short} <span class="pre">course_lib/tables.py</span> <span class="pre">--max-body-bytes</span>'
        }
        finish_page(context)
        path = '<span class="pre long">course_<wbr>lib/<wbr>tables.<wbr>py</span>'
        option = '<span class="pre long"><span class="whole">--max</span>-body-<wbr>bytes</span>'
        assert context["body"] == f"{short} {path} {option}"

    def test_a_command_never_breaks_within_an_option(self):
        listing = (
            '<div class="highlight-{}"><pre><span></span>course<span class="w"> </span>--output a-b -q</pre></div>'
        )
        context = {"body": listing.format("bash notranslate") + listing.format("python")}
        finish_page(context)
        whole = '<span class="whole">{}</span>'
        typed = listing.format("bash notranslate").replace("--output", whole.format("--output"))
        assert context["body"] == typed.replace("-q", whole.format("-q")) + listing.format("python")

    def test_no_line_begins_with_the_mark_after_a_formula(self):
        formula = '<span class="math notranslate nohighlight">\\(10^{-4}\\)</span>'
        context = {"body": f"At {formula}. With {formula} (or {formula}), and {formula} <b>.</b>"}
        finish_page(context)
        kept = '<span class="together">{}</span>'
        assert context["body"] == (
            f"At {kept.format(formula + '.')} With {formula} (or {kept.format(formula + '),')} and {formula} <b>.</b>"
        )

    def test_a_page_without_a_body_is_left_alone(self):
        context = {"script_files": []}
        finish_page(context)
        assert context == {"script_files": []}


def test_a_number_stays_with_its_unit_in_text_and_not_in_code():
    page = new_document("page")
    paragraph = nodes.paragraph("", "About 0.3 % of 4 GB, in 12 s; chapter 3 shows 2 sheets. ")
    paragraph += nodes.literal("", "sleep 5 s")
    page += paragraph
    keep_numbers_with_units(page)
    assert page.astext().replace("\N{NO-BREAK SPACE}", "~") == (
        "About 0.3~% of 4~GB, in 12~s; chapter 3 shows 2 sheets. sleep 5 s"
    )
