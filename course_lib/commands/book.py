"""`course book`: executed chapters and prose to a book that needs no other server."""

import argparse
from pathlib import Path

from course_lib.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
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
    parser.add_argument("--pdf", action="store_true", help="print the book to a PDF, too (needs Chromium)")
    parser.add_argument(
        "--colab", type=Path, metavar="FOLDER", help="write the chapters as Colab opens them there, and build nothing"
    )
    parser.add_argument("--serve", action="store_true", help="serve the book on localhost when it is built")
    parser.add_argument("--port", type=int, default=8000, help="first port to try with --serve (default: 8000)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, say where the book is, and serve it if asked to; or write the copies for Colab."""
    from course_lib.execution.notebooks.project import find_root

    if args.colab:
        from course_lib.publishing.colab import write_copies

        written = write_copies(find_root(), args.colab, args.repository)
        print(f"{len(written)} chapters for Colab in {args.colab}")
        return 0
    from course_lib.publishing.build import build
    from course_lib.publishing.serve import serve

    root = find_root()
    out = (args.out or root / "build" / "book" / "html").resolve()
    runs = args.runs or root / "build" / "run" / "cpu"
    build(root, runs, out, repository=args.repository, force=args.force, pdf=args.pdf)
    print(f"the book: {out / 'index.html'}\n  open that file in a browser, or `make serve`")
    return serve(out, args.port) if args.serve else 0
