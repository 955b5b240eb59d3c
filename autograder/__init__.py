"""The course's assignments (an nbgrader course: `source/`, `nbgrader_config.py`) and the commands around nbgrader.

`course` knows the assignments, `notebook` the parts of one, `release` makes the student's version, `check` runs the
visible tests, `grade` has nbgrader grade a folder of submissions.
"""
