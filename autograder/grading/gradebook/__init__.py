"""nbgrader's own steps with what this course needs of them, and what its gradebook holds.

`worker` is the process in which nbgrader runs. Its points, late penalties and feedback pages are made here.
"""
