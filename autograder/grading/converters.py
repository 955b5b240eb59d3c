"""The address by which nbgrader's configuration knows our steps of autograde.

The copies of nbgrader_config.py in instructors' folders name these classes here, so this address does not change.
"""

from autograder.grading.gradebook.converters import Execute, SaveAutoGrades

__all__ = ["Execute", "SaveAutoGrades"]
