"""The course as nbgrader sees it: run nbgrader's own commands in this folder."""

from pathlib import Path

c = get_config()  # noqa: F821 - given by traitlets

c.CourseDirectory.course_id = "adapting-language-models"
c.CourseDirectory.root = str(Path(__file__).parent)

# A graded cell may take two minutes on a slow laptop; nbgrader's own limit is 30 s.
c.ExecutePreprocessor.timeout = 120
# To nbgrader anything on stderr is a failed test: a library's warning, a progress bar. Errors still are errors.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
# A student's HTML must not run as script in the instructor's browser.
c.HTMLExporter.sanitize_html = True

# What an unwritten part says when it is run.
c.ClearSolutions.code_stub = {"python": '# YOUR CODE HERE\nraise NotImplementedError("this part is not written yet")'}
