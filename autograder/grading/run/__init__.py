"""One grading of a class: what has to be graded anew, by which processes, and what the instructor sees meanwhile."""
