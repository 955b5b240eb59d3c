"""The course's assignments (an nbgrader course: `source/`, `nbgrader_config.py`) and the commands around nbgrader.

`course` knows the assignments, `notebook` the parts of one. The rooms, from the ground up: `sandbox` runs Python where
it can do no harm, `judging` decides outside the submission's process, `student` releases, checks and hands in,
`grading` has nbgrader grade a class, `export` writes the grades for other programs, `authoring` helps to write
assignments, and `commands` has the verbs. A room imports only from those before it.
"""

import sys
from typing import Any

# nbformat checks notebooks with jsonschema, which would spend seconds of each start on a grammar of international web
# addresses, where that package is there; no notebook has one to check. This has to come before nbformat is imported.
ABSENT: Any = None  # what Python takes for a module that must not be imported
sys.modules.setdefault("rfc3987_syntax", ABSENT)
