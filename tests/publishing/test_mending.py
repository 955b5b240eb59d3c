"""Faults of the theme are mended in the built pages, and nothing else is touched."""

from course_lib.publishing.mending import mend

PAGE = """<button class="btn search-button-field" title="Search" aria-label="Search" data-x><span>Search</span></button>
<button class="btn theme-switch-button" aria-label="Color mode"><i class="theme-switch fa" title="Light"></i></button>
<details><summary><span class="toctree-toggle">v</span></summary></details>
<details class="solution"><summary>Solution</summary></details>
"""


def test_controls_have_names_that_hold_their_visible_words(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static/webpack.html").write_text(PAGE)
    (tmp_path / "index.html").write_text(PAGE)
    mend(tmp_path)
    lines = (tmp_path / "index.html").read_text().splitlines()
    assert lines[0] == '<button class="btn search-button-field" title="Search" data-x><span>Search</span></button>'
    assert '<i aria-hidden="true" class="theme-switch fa"' in lines[1]
    assert '<summary aria-label="Pages of this part"><span class="toctree-toggle">' in lines[2]
    assert lines[3] == PAGE.splitlines()[3]
    assert (tmp_path / "_static/webpack.html").read_text() == PAGE
