"""The theme's symbols: of two thousand, pages load those that they show.

They come from Font Awesome as a font, a style sheet that gives each symbol's place in it a name, and a script that
draws every symbol a second time.
"""

import re
from pathlib import Path

SYMBOL = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')
ESCAPE = re.compile(r"\\([0-9a-f]{2,6})")  # a character of a style sheet's text by its number
# Browsers take the first form that they can read. All of them read WOFF, which needs no program beside Python.
SOURCES = re.compile(r'url\(([^)]*/fa-[\w-]+)\.woff2\) format\("woff2"\),url\(\1\.ttf\) format\("truetype"\)')


def forget_symbols(static: Path, symbols: set[str]) -> None:
    """Take the symbols that no page uses out of the theme's style sheet and fonts, and delete the script.

    Args:
        static: the built book's folder `_static`.
        symbols: the names that pages mention, as `fa-check`. Those that scripts mention are added.
    """
    (static / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    for script in sorted(static.rglob("*.js")):
        symbols |= set(re.findall(r"fa-[\w-]+", script.read_text(encoding="utf-8", errors="ignore")))

    def kept(rule: re.Match[str]) -> str:
        return rule[0] if symbols & set(re.findall(r"fa-[\w-]+", rule[0])) else ""

    for sheet in sorted((static / "styles").glob("pydata-sphinx-theme*.css")):
        text = SYMBOL.sub(kept, sheet.read_text(encoding="utf-8"))
        sheet.write_text(SOURCES.sub(r'url(\1.woff) format("woff")', text), encoding="utf-8")
    _shrink_fonts(static)


def _shrink_fonts(static: Path) -> None:
    """Leave in the symbols' fonts what some style sheet shows, and write them as WOFF."""
    fonts = sorted(static.glob("vendor/fontawesome/webfonts/fa-*.ttf"))
    if not fonts:
        return
    from fontTools import subset

    sheets = [sheet.read_text(encoding="utf-8", errors="ignore") for sheet in static.rglob("*.css")]
    shown = {int(number, 16) for sheet in sheets for number in ESCAPE.findall(sheet)}
    options = subset.Options(flavor="woff", notdef_outline=True)
    for path in fonts:
        font = subset.load_font(str(path), options)
        shrinking = subset.Subsetter(options)
        shrinking.populate(unicodes=shown)
        shrinking.subset(font)
        subset.save_font(font, str(path.with_suffix(".woff")), options)
        font.close()
        path.unlink()
        path.with_suffix(".woff2").unlink(missing_ok=True)
