"""What somebody may have meant by a name that does not exist."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

MOST = 3  # suggestions in one sentence


def did_you_mean(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """A sentence with the known names that are spelt like `name`, after a blank; empty where there is none.

    Args:
        name: what was given.
        known: what it could have been; of a mapping, the keys are compared and the values are shown.
    """
    shown = dict(known) if isinstance(known, Mapping) else {each: each for each in known}
    by_lower_case = {each.lower(): each for each in shown}
    close = get_close_matches(name.lower(), by_lower_case, MOST)
    return f" Did you mean {' or '.join(shown[by_lower_case[each]] for each in close)}?" if close else ""


def similar_paths(path: Path, others: Iterable[str] = ()) -> str:
    """`did_you_mean` for a path that does not exist: the neighbours it would have had.

    Args:
        path: the path that was given. Where its folder does not exist either, the folder's neighbours are searched.
        others: names that could have been given in place of a path.
    """
    folder = path.parent
    if folder.is_dir():
        neighbours = {each.name: str(each) for each in folder.iterdir() if not each.name.startswith(".")}
        return did_you_mean(path.name, {each: each for each in others} | neighbours)
    places = [each / path.name for each in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return did_you_mean(folder.name, {each.parent.name: str(each) for each in places if each.exists()})
