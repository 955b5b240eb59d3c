"""What a student is told of an error: what was wrong, and where in their own code."""

import nbformat

from autograder.judging.explain import complaint, lost_points
from autograder.notebook import ENDED, NOT_REACHED, TOO_LONG

TRACE = """---------------------------------------------------------------------------
ValueError                                Traceback (most recent call last)
Cell In[{test}], line 3
      1 check_own(forward)
----> 3 check_close("y", forward(x), [1.0])

Cell In[{answer}], line 2, in forward(x)
      1 def forward(x):
----> 2     return x @ W

File /usr/lib/python3/numpy/linalg.py:2768, in norm(x)
-> 2768     sqnorm = x.dot(x)

ValueError: matmul: size 5 is different from 7"""


def cell(source, count, *errors, **nbgrader):
    outputs = [
        nbformat.v4.new_output("error", ename=ename, evalue=evalue, traceback=[trace])
        for ename, evalue, trace in errors
    ]
    made = nbformat.v4.new_code_cell(source, execution_count=count, outputs=outputs)
    if nbgrader:
        made.metadata["nbgrader"] = nbgrader
    return made


def said(ename, evalue, trace="", answer=None):
    """The complaint of a test cell whose answer is the cell before it."""
    answer = answer or cell("def forward(x):\n    return x @ W", 4, grade_id="forward", solution=True)
    test = cell("check()", 5, (ename, evalue, trace.format(test=5, answer=4)), grade_id="check-forward", grade=True)
    return complaint(nbformat.v4.new_notebook(cells=[answer, test]), test, 15)


def test_a_shape_error_names_the_students_line():
    assert said("ValueError", "matmul: size 5 is different from 7", TRACE) == (
        "ValueError: matmul: size 5 is different from 7, in line 2 of your cell 'forward': `return x @ W`"
    )


def test_a_helper_in_a_cell_of_ones_own():
    own = cell("def forward(x): ...", 4)
    assert said("ValueError", "no", TRACE, own).endswith("in line 2 of a cell of your own: `return x @ W`")


def test_an_error_in_the_check_itself_names_no_line_of_the_student():
    trace = TRACE.split("\nCell In[{answer}]")[0]
    assert said("TypeError", "bad operand", trace) == "TypeError: bad operand"


def test_none_is_explained():
    message = said("TypeError", "unsupported operand type(s) for -: 'NoneType' and 'float'")
    assert "None is what a function gives back that has no `return`" in message


def test_a_read_only_array_is_explained():
    assert "make a new array" in said("ValueError", "assignment destination is read-only")


def test_a_complaint_of_the_checks_is_the_message():
    assert said("AssertionError", "A has shape (2,), expected (3,)", TRACE) == "A has shape (2,), expected (3,)"


def test_a_syntax_error_names_the_line_and_not_a_made_up_file():
    answer = cell(
        "def f(x)", 4, ("SyntaxError", "expected ':' (2022580964.py, line 1)", ""), grade_id="f", solution=True
    )
    nb = nbformat.v4.new_notebook(cells=[answer])
    assert complaint(nb, answer, 15) == "SyntaxError: expected ':' (line 1 of the cell)"


def test_a_loop_names_the_line():
    answer = cell("while True: pass", 4, grade_id="forward", solution=True)
    trace = TRACE.replace("ValueError", "KeyboardInterrupt").format(test=5, answer=4)
    errors = [("KeyboardInterrupt", "", trace), (TOO_LONG, "", "")]
    test = cell("check()", 5, *errors, grade_id="check-forward", grade=True)
    assert complaint(nbformat.v4.new_notebook(cells=[answer, test]), test, 15) == (
        "it took over 15 seconds and was stopped, in line 2 of your cell 'forward': `return x @ W`: "
        "is there an endless loop?"
    )


def test_a_loop_that_swallowed_the_interrupt():
    test = cell("check()", 5, (TOO_LONG, "", ""), grade_id="check-forward", grade=True)
    message = complaint(nbformat.v4.new_notebook(cells=[test]), test, 15)
    assert message == "it took over 15 seconds and was stopped: is there an endless loop?"


def test_what_ended_the_kernel_and_what_came_behind_it():
    assert said(ENDED, "the cell 'init' ended its kernel (a crash)") == "the cell 'init' ended its kernel (a crash)"
    assert said(NOT_REACHED, "not run: the cell 'init' ended") == "not run: the cell 'init' ended"


def test_no_error_no_complaint():
    made = cell("1", 3)
    made.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="careful"))
    assert complaint(nbformat.v4.new_notebook(cells=[made]), made, 15) == ""


def test_a_property_that_is_lost_is_told_where_the_cell_runs_to_its_end():
    printed = "tried 3 (of 4)\nfar apart (1 of 3 points): it is inf\nvalues"
    test = cell("_points.earned()", 5)
    assert lost_points(test) == ""
    test.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=printed.split("far")[0]))
    assert lost_points(test) == ""
    test.outputs[0].text = f"{printed}\n"
    assert lost_points(test) == "far apart (1 of 3 points): it is inf\nvalues"
