"""`course profile`: the profiles, what is in one, and whether it can run."""

import argparse
import json
from typing import Any

from course_lib.commands import Subparsers

DESCRIPTION = """The sizes of a run are in a profile: a TOML file with a table for each chapter.

  course profile list
  course profile show tacc_h100 --table data_config
  course profile check my.toml --set 03_lora.steps=50
  course profile check tacc_a100 --here

`check` finds keys that do not exist, values of a wrong type, values that no run can use (steps = -5), tables that
contradict each other, and a model that does not fit into the GPU it is made for or, once trained, into 12 GB. With
--here it also asks whether this machine has what the profile wants."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course profile` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "profile",
        help="list, show and check profiles: the sizes of a run",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["list", "show", "check"])
    parser.add_argument("name", nargs="?", metavar="PROFILE", help="one of ours, or the path of a TOML or JSON file")
    parser.add_argument("--table", metavar="TABLE", help="show: only this table, such as 03_lora or hardware")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
    )
    parser.add_argument("--here", action="store_true", help="check: also against this machine")
    parser.add_argument("--json", action="store_true", help="show: as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show or check."""
    from course_lib.errors import CourseError
    from course_lib.execution.profile import available_profiles, profile_path, read_profile

    if args.action == "list":
        for name, description in sorted(available_profiles().items()):
            print(f"{name:20} {description}")
        return 0
    if not args.name:
        raise CourseError(f"course profile {args.action} needs the name of a profile: `course profile list` has them.")
    table = read_profile(profile_path(args.name), args.overrides)
    return _show(args, table) if args.action == "show" else _check(args, table)


def _show(args: argparse.Namespace, table: dict) -> int:
    from course_lib.errors import CourseError
    from course_lib.suggestions import did_you_mean

    if args.table:
        if not isinstance(table.get(args.table), dict):
            tables = [key for key, value in table.items() if isinstance(value, dict)]
            hint = did_you_mean(args.table, tables)
            raise CourseError(f"{args.name} has no table {args.table!r}; it has {', '.join(tables)}.{hint}")
        table = {args.table: table[args.table]}
    if args.json:
        print(json.dumps(table, indent=1, default=str))
        return 0
    for key, value in table.items():
        if not isinstance(value, dict):
            print(f"{key} = {_toml(value)}")
    for key, value in table.items():
        if isinstance(value, dict):
            print("\n" + "\n".join([f'["{key}"]', *(f"{inner} = {_toml(each)}" for inner, each in value.items())]))
    return 0


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, default=str, ensure_ascii=False)


def _check(args: argparse.Namespace, table: dict) -> int:
    from course_lib.execution.hardware import HardwareConfig, counted
    from course_lib.execution.profile_check import check_hardware, check_profile
    from course_lib.finetuning.fits import USED_GB, check_fit

    check_profile(args.name, table)
    hardware = HardwareConfig.of(table["hardware"]) if "hardware" in table else None
    fit = check_fit(args.name, table)
    if hardware is not None:
        size = f" of {hardware.gpu_memory_gb:g} GB" if hardware.num_gpus else ""
        gpus = f"{counted(hardware.num_gpus, 'GPU')}{size} on each node, {hardware.mixed_precision}"
        processes = f"{counted(hardware.world_size, 'process')} on {counted(hardware.nodes, 'node')}"
        print(f"hardware  {hardware.device}, {gpus}, {processes}")
    if fit is not None:
        print(f"model     {table['model']['config']}, {fit.parameters:,} parameters")
        print(f"training  {fit.training / 1e9:.1f} GB on each GPU, by formula (see `course memory`)")
        print(f"in use    {fit.in_use / 1e9:.1f} GB with a full context; every profile's model fits into {USED_GB} GB")
    if args.here:
        check_hardware(args.name, table)
    print(f"{args.name} is right" + (", and can run here" if args.here else ""))
    return 0
