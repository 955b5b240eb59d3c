"""An assignment's cells executed in this process: a wrong answer is tried in milliseconds, without a kernel."""

import ast
import copy
import warnings
from collections.abc import Callable, Iterator

from autograder import course, notebook
from autograder.notebook import IMPORTS

Edit = tuple[str, str]


class InProcess:
    """The source notebook of an assignment, with its given cells and reference answers executed."""

    def __init__(self, name: str) -> None:
        cells = [cell for cell in course.find(name).read().cells if cell.cell_type == "code"]
        self.answers = references(course.find(name).read())
        self.tests = {notebook.grade_id(c): c.source for c in cells if notebook.is_test(c)}
        self.names = {"__name__": "__main__"}
        for cell in cells:
            needed = IMPORTS.search(cell.source) or cell.metadata.get("course", {}).get("beside")
            given = notebook.grade_id(cell) and not notebook.is_test(cell) and needed
            if notebook.is_solution(cell) or given:
                self.execute(cell.source)

    def execute(self, source: str) -> None:
        """Execute a cell."""
        exec(compile(source, "<cell>", "exec"), self.names)

    def test_of(self, part: str) -> str:
        """The source of the test cell, with its hidden tests, of the part whose answer is in the cell `part`."""
        return self.tests[f"check-{part}"]

    def complaint(self, part: str, answer: str | None = None, wrap: Callable | None = None) -> Exception | None:
        """What the part's tests raise for another answer, or for the reference in a wrapper; None where they pass."""
        try:
            self.execute(self.answers[part] if answer is None else answer)
            if wrap is not None:
                self.wrap(part, wrap)
            return self.tested(part)
        except Exception as error:
            return error
        finally:
            self.execute(self.answers[part])

    def tested(self, part: str) -> Exception | None:
        """Execute a part's tests; what cost some of its points, where it is not all of them, which is raised."""
        self.names.pop("_points", None)
        self.execute(self.test_of(part))
        points = self.names.get("_points")
        return next(iter(points.lost.values()), None) if points else None

    def wrap(self, part: str, wrapper: Callable) -> None:
        """Wrap the functions that the part's answer defines, and the methods of its classes."""
        for node in ast.parse(self.answers[part]).body:
            if isinstance(node, ast.FunctionDef):
                self.names[node.name] = wrapper(self.names[node.name])
            elif isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
                        owner = self.names[node.name]
                        setattr(owner, method.name, wrapper(getattr(owner, method.name)))


def references(source: notebook.Notebook) -> dict[str, str]:
    """The solutions in code of a source notebook by part."""
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    return {notebook.grade_id(c): reference(c.source) for c in code if notebook.is_solution(c)}


def reference(source: str) -> str:
    """A solution without its markers."""
    return "\n".join(line for line in source.splitlines() if line.strip()[4:] not in ("BEGIN SOLUTION", "END SOLUTION"))


def edited(answer: str, edits: Edit | list[Edit] | str) -> str:
    """The answer with pieces of its text replaced; or another one altogether."""
    if isinstance(edits, str):
        return edits
    for old, new in [edits] if isinstance(edits, tuple) else edits:
        assert old in answer, f"the reference has no {old!r}"
        answer = answer.replace(old, new)
    return answer


def refusing(answer: str, kind: str, message: str | None = None) -> str:
    """The answer with every ValueError that it raises replaced by a `kind`, with another message if one is given."""
    tree = copy.deepcopy(ast.parse(answer))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and getattr(node.exc.func, "id", "") == "ValueError":
            node.exc.func.id = kind
            if message is not None:
                node.exc.args = [ast.Constant(message)]
    return ast.unparse(tree)


def one_of_each(wrong: dict[str, dict]) -> Iterator[tuple[str, str, Edit | list[Edit] | str]]:
    """Part, requirement and edits of a wrong answer to each part, and of those that change what they were given.

    These could reach the next part.

    Args:
        wrong: The wrong answers to an assignment, by part and requirement.
    """
    for part, answers in wrong.items():
        for number, (requirement, edits) in enumerate(answers.items()):
            if number == 1 or "as it is" in requirement or "as they are" in requirement:
                yield part, requirement, edits


def parts_that_fail(name: str, part: str, edits: Edit | list[Edit] | str) -> list[str]:
    """The parts whose tests fail in a notebook that has a wrong answer to `part` and right ones to the others."""
    assignment, failed = InProcess(name), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assignment.execute(edited(assignment.answers[part], edits))
        for other in assignment.answers:
            try:
                if assignment.tested(other):
                    failed.append(other)
            except Exception:
                failed.append(other)
    return failed
