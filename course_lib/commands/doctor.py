"""`course doctor`: what this machine has, what each chapter can do on it, and what is missing."""

import argparse
import json
from typing import Any

from course_lib.commands import Subparsers

DESCRIPTION = """What was found here, what each chapter takes and whether it fits, and what is missing with the command
that installs it.

  course doctor
  course doctor --profile binder
  course doctor --json           for a bug report; it names neither the machine nor you

Times are those of the machine where the profile was measured: a guide, not a promise."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course doctor` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "doctor",
        help="what this machine can run, and what is missing",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", default="cpu", help="the chapters' sizes (cpu)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis."""
    from course_lib.execution.doctor import diagnosis

    found = diagnosis(args.profile)
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """The diagnosis in words.

    Args:
        found: as `execution.doctor.diagnosis` gives it.

    Returns:
        Lines of text.
    """
    machine = found["machine"]
    said = [
        f"system      {machine['system']}, Python {machine['python']}, torch {machine['torch']}",
        f"processor   {machine['cpu']}: {machine['usable_cores']} cores may be used",
        f"products    {', '.join(machine['fast_products']) or 'no instructions for bfloat16: use float32'}",
        f"memory      {machine['available_memory_bytes'] / 1e9:.1f} GB free",
        f"GPU         {'; '.join(machine['gpus']) or ('Apple (mps)' if machine['mps'] else 'none')}",
        "",
        f"chapters at profile {found['profile']}, all of them in about {found['all_chapters_minutes']:.0f} minutes",
    ]
    if found["lacks"]:
        said.append(f"  none of them can run here: {found['lacks']}")
    for each in found["chapters"]:
        verdict = "fits into the memory" if each["fits"] else "too large now: close programs, or use --profile binder"
        line = f"  {each['chapter']:22} {each['memory_gb']:4.1f} GB  {each['minutes']:4.1f} min  "
        said.append((line if found["lacks"] else line + verdict).rstrip())
    said += ["", "missing" if found["missing"] else "nothing is missing"]
    said += [f"  {each['name']:14} for {each['serves']}: {each['cure']}" for each in found["missing"]]
    if found["off_their_pins"]:
        said += ["", "not the versions that were tested (constraints.txt): `make setup` installs those"]
    said += [f"  {name:14} {here} here, {pin} tested" for name, (here, pin) in found["off_their_pins"].items()]
    return said
