"""What the guides tell people to type is understood: each `course` command in them is parsed, and not run."""

import re
import shlex

import pytest

from course_lib.cli import parser
from course_lib.execution.notebooks.project import find_root

PAGES = ["student-guide", "instructor-guide", "write-an-assignment", "assignments/index"]


def commands(page):
    text = (find_root() / "book" / f"{page}.md").read_text()
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.splitlines():
            if line.startswith("course "):
                yield line


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands(page)])
def test_a_command_of_the_guide_is_understood(page, line):
    words = shlex.split(line, comments=True)
    args = parser().parse_args(words[1:])
    assert callable(args.run)
