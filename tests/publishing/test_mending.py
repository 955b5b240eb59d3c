"""Faults of the theme are mended in the built pages, and nothing else is touched."""

import shutil
from pathlib import Path

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
    scripts += '<script defer="defer" src="_static/mathjax/mathjax.js?v=1"></script>'
    scripts += '<script src="searchtools.js"></script><script src="searchindex.js"></script>'
    (tmp_path / "search.html").write_text(scripts)
    (tmp_path / "plain.html").write_text(f'{scripts}<i class="fa-magnifying-glass"></i>')
    (tmp_path / "maths.html").write_text(f'{scripts}<div class="math notranslate"></div><img src="_images/a.svg">')
    mend(tmp_path)
    assert (tmp_path / "plain.html").read_text() == '<i class="fa-magnifying-glass"></i>'
    maths = (tmp_path / "maths.html").read_text()
    assert "mathjax/mathjax.js" in maths
    assert "fontawesome" not in maths
    assert "searchindex.js" not in maths
    assert "searchindex.js" in (tmp_path / "search.html").read_text()
    assert '<img loading="lazy" src="_images/a.svg">' in maths
    assert sheet.read_text() == f".fas{{color:red}}{used}{both}"
    assert not (tmp_path / "_static/scripts/fontawesome.js").exists()


FACE = """@font-face{src:url(../vendor/fontawesome/webfonts/fa-solid-900.woff2) format("woff2"),\
url(../vendor/fontawesome/webfonts/fa-solid-900.ttf) format("truetype")}"""


def test_the_symbols_fonts_keep_what_style_sheets_show(tmp_path):
    import matplotlib
    from fontTools.ttLib import TTFont

    styles, fonts = tmp_path / "_static/styles", tmp_path / "_static/vendor/fontawesome/webfonts"
    for folder in (styles, fonts):
        folder.mkdir(parents=True)
    (tmp_path / "index.html").write_text('<i class="fa-alpha"></i>')
    sheet = styles / "pydata-sphinx-theme.css"
    sheet.write_text('.fa-alpha:before{content:"\\03b1"}.fa-beta:before{content:"\\03b2"}' + FACE)
    (styles / "other.css").write_text('.note:before{content:"\\3b3"}')
    whole = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    shutil.copy(whole, fonts / "fa-solid-900.ttf")
    (fonts / "fa-solid-900.woff2").write_bytes(b"as the theme has it")
    mend(tmp_path)
    assert [path.name for path in fonts.iterdir()] == ["fa-solid-900.woff"]
    assert set(TTFont(fonts / "fa-solid-900.woff").getBestCmap()) == {0x3B1, 0x3B3}
    assert (fonts / "fa-solid-900.woff").stat().st_size < whole.stat().st_size / 50
    face = '@font-face{src:url(../vendor/fontawesome/webfonts/fa-solid-900.woff) format("woff")}'
    assert sheet.read_text() == '.fa-alpha:before{content:"\\03b1"}' + face
