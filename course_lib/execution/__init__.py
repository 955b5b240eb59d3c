"""Execution: profiles, recorded numbers, and running chapters headless (`notebooks`)."""

from course_lib.execution.profile import Profile, load_profile
from course_lib.execution.record import Recorder

__all__ = ["Profile", "Recorder", "load_profile"]
