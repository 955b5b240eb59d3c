"""`course book`: executed chapters and prose to a book that needs no other server."""

import argparse
import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from course_lib.errors import CourseError


def add_parser(subparsers) -> None:
    """Register `course book` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "book",
        help="build the book from the executed chapters",
        description="Build the book with Jupyter Book from book/ and the executed chapters. Warnings, dead links "
        "inside the book, cells with errors and pages that need another server all fail the build; the last good book "
        "stays where it was.",
    )
    parser.add_argument("--run", dest="runs", type=Path, help="executed chapters (default: build/run/cpu)")
    parser.add_argument("--out", type=Path, help="where the book goes (default: build/book/html)")
    parser.add_argument("--repository", help="URL of the published repository, for Binder and Colab buttons")
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    parser.add_argument("--serve", action="store_true", help="serve the book on localhost when it is built")
    parser.add_argument("--port", type=int, default=8000, help="first port to try with --serve (default: 8000)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, say where the book is, and serve it if asked to."""
    from course_lib.execution.project import find_root

    root = find_root()
    out = (args.out or root / "build" / "book" / "html").resolve()
    build(root, args.runs or root / "build" / "run" / "cpu", out, repository=args.repository, force=args.force)
    print(f"the book: {out / 'index.html'}\n  open that file in a browser, or `make serve`")
    return serve(out, args.port) if args.serve else 0


def build(root: Path, runs: Path, out: Path, *, repository: str | None = None, force: bool = False) -> bool:
    """Build the book into `out`, whole or not at all. Returns False where it was current already."""
    from course_lib.execution.book_sources import assemble
    from course_lib.execution.site_check import check_site

    sources = out.parent / "source"
    shutil.rmtree(sources, ignore_errors=True)
    assemble(root, runs, sources, repository)
    wanted = _tree_hash(sources, root / "course_lib")
    stamp = out / ".built-from"
    if not force and stamp.is_file() and stamp.read_text() == wanted:
        print("the book is current")
        return False

    print("building the book (about half a minute)", flush=True)
    work = out.parent / ".work"
    shutil.rmtree(work, ignore_errors=True)
    html = _jupyter_book(sources, work)
    if problems := check_site(html):
        raise CourseError("The built pages have problems:\n  " + "\n  ".join(problems))
    (html / ".built-from").write_text(wanted)
    _replace(html, out)
    shutil.rmtree(work, ignore_errors=True)
    return True


def _jupyter_book(sources: Path, work: Path) -> Path:
    """Run Jupyter Book with warnings as errors; its log is kept beside the book and shown where it fails."""
    program = "from jupyter_book.cli.main import main; main()"  # the module itself cannot be run with -m
    options = ["--path-output", str(work), "--warningiserror", "--keep-going", "--all"]
    command = [sys.executable, "-c", program, "build", str(sources), *options]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    log = sources.parent / "build.log"
    output = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)  # without colours
    log.write_text(output)
    html = work / "_build" / "html"
    if done.returncode or not (html / "index.html").is_file():
        lines = output.replace(f"{sources}{os.sep}", "").splitlines()
        warned = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-15:]
        raise CourseError("Jupyter Book failed:\n  " + "\n  ".join(warned) + f"\nThe whole log is {log}")
    return html


def _replace(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _tree_hash(*folders: Path) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def serve(html: Path, port: int) -> int:
    """Serve `html` on localhost until Ctrl-C, on `port` or the next free one."""
    handler = functools.partial(_Quiet, directory=str(html))
    for candidate in range(port, port + 50):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
        with server:
            print(f"serving on http://localhost:{candidate} (Ctrl-C stops)", flush=True)
            server.serve_forever()
    raise CourseError(f"No port from {port} to {port + 49} is free: give another with --port.")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Files only, no log line a request."""

    def log_message(self, *_) -> None:
        """Called by http.server for each request."""
        return
