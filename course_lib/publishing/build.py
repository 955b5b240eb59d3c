"""The build: Jupyter Book in a process of its own, its pages checked, the finished book renamed into place."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.publishing.mending import mend
from course_lib.publishing.pdf import PDF_NAME, write_pdf
from course_lib.publishing.site_check import check_site
from course_lib.publishing.sources import assemble


def build(
    root: Path, runs: Path, out: Path, *, repository: str | None = None, force: bool = False, pdf: bool = False
) -> bool:
    """Build the book into `out`, whole or not at all.

    Args:
        root: the clone.
        runs: the folder of the executed chapters.
        out: where the pages go; an earlier book there stays until the new one has passed its checks.
        repository: the address of the published repository, for the buttons; None: the one in book/_config.yml.
        force: build even if nothing has changed.
        pdf: print the book to a PDF, too, and link it from the landing page.

    Returns:
        False where the book was current already.

    Raises:
        CourseError: Jupyter Book warned, or a page has a dead link or fetches from another server.
    """
    sources = out.parent / "source"
    shutil.rmtree(sources, ignore_errors=True)
    assemble(root, runs, sources, repository)
    if pdf:
        link_pdf(sources / "index.md")
    wanted = _tree_hash(sources, root / "course_lib")
    stamp = out / ".built-from"
    if not force and stamp.is_file() and stamp.read_text() == wanted:
        print("the book is current")
        return False

    print("building the book (about half a minute)", flush=True)
    work = out.parent / ".work"
    shutil.rmtree(work, ignore_errors=True)
    html = _jupyter_book(sources, work)
    mend(html)
    if pdf:
        write_pdf(html, html / PDF_NAME)
    if problems := check_site(html):
        raise CourseError("The built pages have problems:\n  " + "\n  ".join(problems))
    (html / ".built-from").write_text(wanted)
    _replace(html, out)
    shutil.rmtree(work, ignore_errors=True)
    return True


def link_pdf(index: Path) -> None:
    """Put a link to the PDF below the landing page's start button."""
    text = index.read_text(encoding="utf-8")
    link = f'<p class="pdf-link"><a href="{PDF_NAME}">The whole book as a PDF</a></p>'
    before, button, after = text.partition(":class: start-button")
    rest, fence, after = after.partition("\n```\n")
    if not fence:
        raise CourseError(f"{index.name} has no start button to put the link to the PDF under.")
    index.write_text(f"{before}{button}{rest}{fence}\n{link}\n{after}", encoding="utf-8")


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
