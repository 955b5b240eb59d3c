"""A model behind HTTP: what `course serve` starts, and what uvicorn starts by itself.

    uvicorn course_lib.serve:app --factory --env-file .env

The server itself is `course_lib.inference.server`; here are its settings, and how model and adapters are loaded for it.
"""

import os
import sys
from typing import TYPE_CHECKING

from course_lib.errors import CourseError

if TYPE_CHECKING:
    from fastapi import FastAPI


def app() -> "FastAPI":
    """The application for uvicorn's --factory, with the settings of the environment (see `settings`).

    What is wrong with them is said in one sentence, and ends the process.
    """
    from course_lib.serve.settings import from_environment

    try:
        settings = from_environment(os.environ)  # before torch is imported, which takes seconds

        from course_lib.serve.running import build

        return build(settings)
    except CourseError as error:
        sys.exit(f"course: {error}")
