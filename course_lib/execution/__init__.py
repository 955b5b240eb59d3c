"""Execution: profiles, recorded numbers, and running chapters headless (`notebooks.runner`)."""

from course_lib.execution.notebooks.record import Recorder
from course_lib.execution.profile import Profile, load_profile

__all__ = ["Profile", "Recorder", "load_profile"]
