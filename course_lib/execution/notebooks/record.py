"""What a notebook wants remembered: numbers that `course run` puts into metrics.json."""

import math
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.files import write_json


class Recorder:
    """`record(loss=2.5)` merges values into `output_dir`/record.json, whole at every moment.

    Numbers, strings, booleans, None, and lists and dictionaries of them; NumPy and torch scalars are converted.
    """

    def __init__(self, output_dir: Path | str):
        self.path = Path(output_dir) / "record.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.values: dict = {}

    def __call__(self, **values: Any) -> None:
        for key, value in values.items():
            self.values[key] = _plain(key, value)
        write_json(self.path, self.values)


def _plain(key: str, value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and torch
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise CourseError(f"record({key}={value}): a recorded number must be finite.")
    if isinstance(value, dict):
        return {str(k): _plain(f"{key}.{k}", v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CourseError(f"record({key}=...): a {type(value).__name__} cannot be written as JSON.")
