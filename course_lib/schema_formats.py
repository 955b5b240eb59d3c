"""Import this before nbformat, whose import then takes half as long.

nbformat uses jsonschema, which imports a package for each format of text that a schema may ask for: addresses,
durations, colours. One of them compiles a grammar of internationalised URLs, which takes more than twice as long as
all that a chapter's process imports besides. No notebook needs them. With None here their imports fail, and jsonschema
goes on without them, as it does where they are not installed.
"""

import sys

FORMATS = (
    "rfc3987_syntax",
    "rfc3986_validator",
    "rfc3339_validator",
    "isoduration",
    "webcolors",
    "uri_template",
    "fqdn",
)
for name in FORMATS:
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]
