"""Notebooks run headless: `project` finds the chapters, `runner` starts a `worker` for each, `side_by_side` decides how
many run at a time, `record` keeps their numbers, `results` what came of them, and `check` says what a notebook in the
repository must be."""

import sys

# jsonschema, which nbformat uses, would compile a grammar of internationalised URLs when it is imported. That takes
# more than twice as long as all that a worker imports besides, and no notebook needs it. With None here its import
# fails, and jsonschema goes on without it, as it does where the package is not installed.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
