"""Data sets that the package carries, so that no chapter needs a network."""

from importlib.resources import files


def style_corpus() -> str:
    """The Keeper's Log: dated entries of a lighthouse keeper who takes the weather personally.

    Written for this course (CC BY 4.0); paragraphs are separated by blank lines. Its voice is strong enough that a
    small model shows it after a minute of training.
    """
    return (files("course_lib.data") / "bundled" / "keepers_log.txt").read_text(encoding="utf-8")
