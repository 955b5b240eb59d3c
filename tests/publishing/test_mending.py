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


def test_what_no_page_uses_is_not_loaded(tmp_path):
    for folder in ("_static/scripts", "_static/styles"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "_static/scripts/fontawesome.js").write_text("many symbols")
    (tmp_path / "_static/scripts/theme.js").write_text('icon("fa-check")')
    sheet = tmp_path / "_static/styles/pydata-sphinx-theme.css"
    used, both = '.fa-check:before{content:"a"}', '.fa-search:before,.fa-magnifying-glass:before{content:"b"}'
    sheet.write_text(f'.fas{{color:red}}{used}.fa-horse:before{{content:"c"}}{both}')
    scripts = '<script defer src="_static/scripts/fontawesome.js?x"></script>'
    scripts += '<script defer="defer" src="_static/mathjax/tex-chtml-full.js?v=1"></script>'
    (tmp_path / "plain.html").write_text(f'{scripts}<i class="fa-magnifying-glass"></i>')
    (tmp_path / "maths.html").write_text(f'{scripts}<div class="math notranslate"></div><img src="_images/a.svg">')
    mend(tmp_path)
    assert (tmp_path / "plain.html").read_text() == '<i class="fa-magnifying-glass"></i>'
    maths = (tmp_path / "maths.html").read_text()
    assert "mathjax/tex-chtml-full.js" in maths
    assert "fontawesome" not in maths
    assert '<img loading="lazy" src="_images/a.svg">' in maths
    assert sheet.read_text() == f".fas{{color:red}}{used}{both}"
    assert not (tmp_path / "_static/scripts/fontawesome.js").exists()
