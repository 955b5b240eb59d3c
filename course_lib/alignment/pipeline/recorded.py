"""The numbers of an earlier run of the pipeline, for pages that cannot wait for a new one, such as chapter 09."""

import json
from importlib.resources import files
from typing import Any

from course_lib.errors import CourseError


def recorded_run(profile: str = "cpu") -> dict[str, Any]:
    """Read the numbers of an earlier run.

    Args:
        profile: the profile of the run; so far, only "cpu" is there.

    Returns:
        {"about": when and where, "rows": of the comparison table, "stages": seconds, steps and tokens by stage, ...}.

    Raises:
        CourseError: no run of this profile was recorded.
    """
    path = files("course_lib.alignment.pipeline") / f"recorded_{profile}.json"
    if not path.is_file():
        raise CourseError(f"No run of the pipeline at profile {profile!r} was recorded; there is one at cpu.")
    return json.loads(path.read_text(encoding="utf-8"))
