"""What somebody may have meant by a name that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MOST = 3  # suggestions in one sentence
LEAST_BEGINNING = 4  # letters: fewer begin too many names
ALIKE = 0.7  # of 1: less would let file names be alike by their ending alone


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names that are spelt like `name`, after a blank; empty where there is none.

    Args:
        name: what was given.
        known: what it could have been.

    Returns:
        The sentence.
    """
    return _as_question(_close(name, known))


def similar_paths(path: Path, others: Iterable[str] = ()) -> str:
    """`did_you_mean` for a path that does not exist: the neighbours it would have had.

    Args:
        path: the path that was given. Where its folder does not exist either, the folder's neighbours are searched.
        others: names that could have been given in place of a path.

    Returns:
        The sentence.
    """
    folder = path.parent
    if folder.is_dir():
        shown = {each: each for each in others}
        shown |= {each.name: str(each) for each in folder.iterdir() if not each.name.startswith(".")}
        return _as_question(shown[each] for each in _close(path.name, shown))
    places = [each / path.name for each in folder.parent.iterdir()] if folder.parent.is_dir() else []
    shown = {each.parent.name: str(each) for each in places if each.exists()}
    return _as_question(shown[each] for each in _close(folder.name, shown))


def _close(name: str, known: Iterable[str]) -> list[str]:
    """The names that are spelt like `name`, the closest first, then those that begin with it, such as
    "smollm2-135m-instruct" for "smollm2". Capitals make no difference."""
    wanted, by_lower_case = name.lower(), {each.lower(): each for each in known}
    found = get_close_matches(wanted, by_lower_case, MOST, ALIKE)
    if len(wanted) >= LEAST_BEGINNING:
        found += [each for each in by_lower_case if each.startswith(wanted) and each not in found]
    return [by_lower_case[each] for each in found[:MOST]]


def _as_question(names: Iterable[str]) -> str:
    listed = " or ".join(names)
    return f" Did you mean {listed}?" if listed else ""
