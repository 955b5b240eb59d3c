"""Data cards: for each embedded data set what it is, how it was made, how large it is, and what it is not for."""

from importlib.resources import files

from course_lib.errors import CourseError

NAMES = ("keepers_log", "instructions", "preferences", "word_problems")


def data_card(name: str) -> str:
    """The Markdown card of one data set: "keepers_log", "instructions", "preferences" or "word_problems".

    The sections follow Datasheets for Datasets (Gebru et al. 2021), shortened. A test recomputes each card's numbers.

    Raises:
        CourseError: there is no such card.
    """
    if name not in NAMES:
        raise CourseError(f"There is no data card {name!r}; the cards are {', '.join(NAMES)}.")
    return (files("course_lib.data.generators") / "cards" / f"{name}.md").read_text(encoding="utf-8")


def cards() -> dict[str, str]:
    """Every data card, Markdown by name."""
    return {name: data_card(name) for name in NAMES}
