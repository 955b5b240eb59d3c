"""The course as nbgrader sees it: run nbgrader's own commands in this folder."""

from pathlib import Path

c = get_config()  # noqa: F821 - given by traitlets

c.CourseDirectory.course_id = "adapting-language-models"
c.CourseDirectory.root = str(Path(__file__).parent)

# What a cell may take at most, in seconds, such as the import of a large library on a slow disk. For tests and answers
# each assignment has its own limit (`course.seconds_per_cell` in its metadata).
c.ExecutePreprocessor.timeout = 120
# nbgrader's list, with our own way to execute a notebook and to save its points: a cell that ends its kernel costs only
# what comes behind it, and that is left to a person.
c.Autograde.autograde_preprocessors = [
    "autograder.grading.converters.Execute",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "autograder.grading.converters.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# To nbgrader anything on stderr is a failed test: a library's warning, a progress bar. Errors still are errors.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
# The feedback pages: by part, without hidden tests, and without anything of a stranger's that could run.
c.GenerateFeedback.exporter_class = "autograder.grading.feedback.FeedbackExporter"
# A student's HTML must not run as script in the instructor's browser.
c.HTMLExporter.sanitize_html = True

# What an unwritten part says when it is run.
c.ClearSolutions.code_stub = {"python": '# YOUR CODE HERE\nraise NotImplementedError("this part is not written yet")'}
