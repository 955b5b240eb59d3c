"""What instructors use: grading submissions through nbgrader."""
