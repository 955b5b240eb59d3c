"""One look for all figures of the book: colours, sizes, and the formats in which a notebook keeps them."""

import matplotlib
from cycler import cycler

BLUE, RED, YELLOW, GREEN = "#00798c", "#d1495b", "#edae49", "#66a182"
PALE, INK, VIOLET = "#9db4c8", "#1f3b4d", "#7b5ea7"
GROUND = "#eef2f5"  # boxes behind labels
FUTURE = "#d9d9d9"  # what a causal mask hides

# 72 points are 96 CSS pixels, so 12 points are 16 pixels, the size of the text around a figure on a wide screen.
# A phone of 390 pixels shows a figure at 334: one of five inches (480 pixels) keeps 11 pixels for its text.
WIDTH = 5.0
STYLE = {
    "figure.figsize": (WIDTH, 3.3),
    "figure.constrained_layout.use": True,
    "savefig.pad_inches": 0.03,  # notebooks crop a figure to its content and put this around it
    "font.size": 12,
    "axes.titlesize": 12,
    "legend.fontsize": 12,
    "legend.framealpha": 0.85,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, RED, YELLOW, INK, GREEN, VIOLET]),
    "svg.hashsalt": "course",  # the same figure gives the same file
}


def use_style() -> None:
    """Give every figure that follows the look of the book.

    In a notebook each figure is kept twice, as SVG and as PNG: the book takes the SVG unless it is large.
    """
    matplotlib.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
    except ImportError:  # a script on a machine without Jupyter
        return
    shell = get_ipython()
    if shell is not None:
        shell.run_line_magic("config", "InlineBackend.figure_formats = {'svg', 'png'}")
