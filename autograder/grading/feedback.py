"""The address by which nbgrader's configuration knows our feedback pages.

The copies of nbgrader_config.py in instructors' folders name this class here, so this address does not change.
"""

from autograder.grading.gradebook.feedback import FeedbackExporter

__all__ = ["FeedbackExporter"]
