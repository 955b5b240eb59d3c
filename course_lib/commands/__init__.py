"""The verbs of `course`, one file each: arguments and printing, nothing that a notebook would want to call.

`course_lib.cli` finds every module of this folder that defines ``add_parser(subparsers)``: a new verb is a new file.
"""

import argparse
from typing import TypeAlias

# What `add_subparsers` returns and every `add_parser` receives; argparse has no public name for it.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
