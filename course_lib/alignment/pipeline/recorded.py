"""A run of the pipeline whose numbers are kept, for pages that cannot wait minutes for one: chapter 09 shows it."""

import json
from importlib.resources import files
from typing import Any

from course_lib.errors import CourseError


def recorded_run(profile: str = "cpu") -> dict[str, Any]:
    """The numbers of a run on another day.

    Args:
        profile: "cpu" is the only one so far.

    Returns:
        {"about": when and where, "rows": of the comparison table, "stages": seconds, steps and tokens by stage, ...}.

    Raises:
        CourseError: no run of this profile was recorded.
    """
    path = files("course_lib.alignment.pipeline") / f"recorded_{profile}.json"
    if not path.is_file():
        raise CourseError(f"No run of the pipeline at profile {profile!r} was recorded; there is one at cpu.")
    return json.loads(path.read_text(encoding="utf-8"))
