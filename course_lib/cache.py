"""Where the course keeps what it can make again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$COURSE_CACHE`, else the XDG cache folder (https://specifications.freedesktop.org/basedir-spec)."""
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "adapting-language-models"
