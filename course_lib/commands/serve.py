"""`course serve`: a model and its adapters behind HTTP."""

import argparse
import importlib.util
import os
from dataclasses import fields, replace
from pathlib import Path

from course_lib.commands import Subparsers, require_adapter, require_base
from course_lib.errors import CourseError
from course_lib.options import add_options
from course_lib.serve.settings import MODEL, NETWORK, PREFIX, ServeSettings, from_environment, named_adapters

OWN_APPLICATIONS = ("course_lib.serve:app", "src.serve:app")


def add_parser(subparsers: Subparsers) -> None:
    """Register `course serve` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "serve",
        help="a model and its adapters behind HTTP, for OpenAI's clients, curl and a chat page",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"""Serve a model to many clients at once: OpenAI's calls, /generate, and a chat page at /.

  course serve
  course serve --adapter notes=runs/notes --adapter lora=runs/lora
  course serve --model gpt2 --port 9000 --env-file .env

A call names the base or an adapter as its model. Each setting is also a variable of the environment: {PREFIX}
and the setting's name in capitals. Defaults are in brackets.""",
    )
    # uvicorn's own words, so that its command line works with `course serve` in uvicorn's place
    parser.add_argument("application", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--factory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--reload", action="store_true", help="start again when a file of the package changes")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read variables of the environment from a file")
    add_options(parser, ServeSettings)
    group = {each.title: each for each in parser._action_groups}
    group[MODEL].add_argument(
        "--adapter", nargs="+", action="extend", default=argparse.SUPPRESS, metavar="NAME=PATH",
        help="adapters that calls may name; without NAME= the folder's name counts",
    )  # fmt: skip
    group[NETWORK].add_argument(
        "--allowed-host", nargs="+", action="extend", default=argparse.SUPPRESS, metavar="NAME",
        help="names of this server in the header Host, besides localhost",
    )  # fmt: skip
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> int:
    """Check everything that can be checked quickly, load, and serve."""
    if args.application not in (None, *OWN_APPLICATIONS):
        raise CourseError(
            f"course serve has one application, course_lib.serve:app; it cannot serve {args.application}."
        )
    if args.env_file is not None:
        _read_env_file(args.env_file)
    names = {each.name for each in fields(ServeSettings)}
    given = {key: value for key, value in vars(args).items() if key in names}
    for key in ("adapter", "allowed_host"):
        if key in given:
            given[key] = tuple(given[key])
    settings = from_environment(os.environ, **given)
    named = named_adapters(settings.adapter)
    found = {name: require_adapter(path) for name, path in named.items()}
    if found != named:  # by the name that a guide gives to its file
        settings = replace(settings, adapter=tuple(f"{name}={path}" for name, path in found.items()))
    require_base(settings.model)
    if settings.backend == "vllm":
        from course_lib.serve.vllm import serve_by_vllm

        serve_by_vllm(settings)
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise CourseError(f"course serve needs {', '.join(missing)}: pip install '.[torch,serve]'.")
    from course_lib.serve.running import serve

    return serve(settings, args.reload)


def _read_env_file(path: Path) -> None:
    """As uvicorn does it: variables that are set already keep their values."""
    if not path.is_file():
        raise CourseError(f"There is no file {path} for --env-file.")
    if importlib.util.find_spec("dotenv") is None:
        raise CourseError("--env-file needs python-dotenv: pip install '.[serve]'.")
    from dotenv import load_dotenv

    load_dotenv(path)
