"""What a student hands in: the notebook, looked at once more, in an archive with a receipt.

The archive NAME-TIME.zip holds NAME.ipynb, timestamp.txt (which nbgrader and `course collect` read) and receipt.json.
"""

import copy
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autograder import course, notebook
from autograder.notebook import Cell, Notebook
from autograder.rebuild import answers, is_injected, rebuild
from autograder.recognise import assignment_of, normal, restored
from autograder.student.release import release
from course_lib.errors import CourseError
from course_lib.files import write_whole

TIMESTAMP = "timestamp.txt"
RECEIPT = "receipt.json"
STUDENT_ID = re.compile(r"[\w.@-]+")
MOST = 20 * 2**20  # bytes of a notebook without outputs


@dataclass(frozen=True)
class Prepared:
    """A notebook that can be handed in.

    name: the assignment. path: the student's file, which is only read. content: what is handed in. written: the titles
    of the parts that have an answer. unwritten: of those that have none. notes: what the student should know.
    """

    name: str
    path: Path
    content: bytes
    written: list[str]
    unwritten: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Receipt:
    """What was handed in.

    file: the archive, or the notebook's place in the exchange. kept: where the receipt lies. entries: what it says, in
    order.
    """

    file: str
    kept: Path
    entries: dict[str, Any]


def prepare(path: Path, *, repair: bool = False) -> Prepared:
    """Look at a notebook, and make of it what is handed in.

    What can be put right without touching the answers is put right: metadata that an editor has dropped, the layout of
    given cells, doubled ones, papermill's injected cell, outputs.

    Args:
        path: The student's notebook, which is only read.
        repair: Put given cells back that are missing or were edited, instead of refusing the notebook.

    Returns:
        What is handed in, and what was put right.

    Raises:
        CourseError: It is not an assignment, or given cells are missing or were edited.
    """
    submission = notebook.read(path)
    assignment = assignment_of(submission, course.assignments().values())
    name = path.stem if assignment is None else assignment.name
    if assignment is None and not any(notebook.is_test(cell) for cell in submission.cells):
        raise CourseError(f"{path} is not one of the course's assignments: get one with `course assignment get NAME`.")
    template = submission if assignment is None else release(assignment)
    broken = faults(template, submission)
    if broken and not repair:
        raise CourseError(_refusal(path, name, broken))
    whole = rebuild(template, submission) if broken else _mended(template, submission)
    notes = [f"{fault}: put back as it was released" for fault in broken]
    if any(map(is_injected, submission.cells)):
        notes.append("papermill's injected cell is left out: an assignment has its own parameters")
    written, unwritten = _answered(template, submission)
    if unwritten:
        notes.append(f"without an answer: {'; '.join(unwritten)}")
    return Prepared(name, path, _bytes(whole, path), written, unwritten, notes)


def faults(template: Notebook, submission: Notebook) -> list[str]:
    """The given cells with code that are not what they were, and that no look at their text can tell.

    Comments and layout do not count, nor does a second copy beside an intact one.

    Args:
        template: The released notebook.
        submission: The student's notebook, which is not changed.

    Returns:
        What is wrong, cell by cell.
    """
    there: dict[str | None, list[Cell]] = {}
    for cell in restored(template, submission).cells:
        there.setdefault(notebook.grade_id(cell), []).append(cell)
    found = []
    for cell in template.cells:
        name = notebook.grade_id(cell)
        if name is None or notebook.is_solution(cell) or cell.cell_type != "code":
            continue
        copies = there.get(name, [])
        if not copies:
            found.append(f"the {_kind(cell)} cell {name!r} is missing")
        elif not any(each.cell_type == "code" and normal(each.source) == normal(cell.source) for each in copies):
            found.append(f"the {_kind(cell)} cell {name!r} was edited")
    return found


def _kind(cell: Cell) -> str:
    return "test" if notebook.is_test(cell) else "given"


def _refusal(path: Path, name: str, broken: list[str]) -> str:
    return (
        f"{path} is not as it was released: {'; '.join(broken)}. Nothing was packed. Your answers may rely on that, and"
        f" grading uses the released cells: look at them with `course assignment get {name} --to FOLDER`, or put"
        " them back with --repair, which leaves your file and your answers as they are."
    )


def _mended(template: Notebook, submission: Notebook) -> Notebook:
    """The student's notebook with its metadata, and each given cell once, as it was released."""
    given = {notebook.grade_id(cell): cell for cell in template.cells if notebook.grade_id(cell) is not None}
    whole = restored(template, submission)
    cells, seen = [], set()
    for cell in whole.cells:
        name = notebook.grade_id(cell)
        if is_injected(cell) or (name in seen and not notebook.is_solution(cell)):
            continue
        if name in given and not notebook.is_solution(cell):
            seen.add(name)
            cell = copy.deepcopy(given[name])
        cells.append(cell)
    whole.cells = cells
    whole.metadata["course"] = copy.deepcopy(template.metadata.get("course", {}))
    return whole


def _answered(template: Notebook, submission: Notebook) -> tuple[list[str], list[str]]:
    """The titles of the parts with an answer, and of those without."""
    empty, given = answers(template, template), answers(submission, template)
    written: list[str] = []
    unwritten: list[str] = []
    own: set[str] = set()
    parts = {part.id: part for part in notebook.parts(template)}
    for cell in template.cells:
        name = notebook.grade_id(cell)
        if name is not None and (notebook.is_solution(cell) or notebook.is_task(cell)):
            own.add(name)
        if name in parts:
            touched = any(each in given and normal(given[each]) != normal(empty[each]) for each in own)
            (written if touched else unwritten).append(parts[name].title)
            own = set()
    return written, unwritten


def _bytes(whole: Notebook, path: Path) -> bytes:
    """The notebook as a file, without outputs and with cell ids of its own."""
    import nbformat

    ids: set[str] = set()
    for cell in whole.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.get("id") in ids:  # a copied cell
            cell.id = nbformat.v4.new_code_cell().id
        ids.add(cell.get("id"))
    content = (nbformat.writes(whole) + "\n").encode()
    if len(content) > MOST:
        raise CourseError(
            f"{path} has {len(content) / 2**20:.0f} MiB without its outputs, and an archive may hold {MOST // 2**20}:"
            " take out what is not an answer, such as images in text cells."
        )
    return content


def pack(prepared: Prepared, folder: Path, student: str | None = None, now: datetime | None = None) -> Receipt:
    """Write the archive and its receipt, whole or not at all.

    Args:
        prepared: What `prepare` returned.
        folder: Where they go.
        student: The student's id, if the archive is to say it.
        now: When it is handed in, with a zone; by default now.

    Returns:
        The receipt, whose SHA-256 is the archive's.

    Raises:
        CourseError: The id has characters that a file name should not have.
    """
    if student is not None and not STUDENT_ID.fullmatch(student):
        raise CourseError(f"The student id {student!r} must be letters, digits and . _ - @ only: it names the archive.")
    time = (now or datetime.now(UTC)).astimezone(UTC)
    stem = "-".join(filter(None, [student, prepared.name, f"{time:%Y%m%dT%H%M%SZ}"]))
    entries = contents(prepared, time)
    if student is not None:
        entries = {"student": student} | entries
    files = {
        f"{prepared.name}.ipynb": prepared.content,
        TIMESTAMP: f"{time:%Y-%m-%d %H:%M:%S.%f %Z}".encode(),
        RECEIPT: (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    archive = folder / f"{stem}.zip"
    if archive.exists():
        raise CourseError(f"{archive} exists already and is left as it is: wait a second and submit again.")
    data = _zipped(files, time)
    write_whole(archive, data)
    entries = {"archive": archive.name, "sha256": hashlib.sha256(data).hexdigest()} | entries
    entries |= {"files": {name: len(content) for name, content in files.items()}}
    return kept(str(archive), folder / f"{stem}.receipt.json", entries)


def contents(prepared: Prepared, time: datetime) -> dict[str, Any]:
    """What every receipt says.

    Args:
        prepared: What is handed in.
        time: When, with a zone.

    Returns:
        The entries by name.
    """
    return {
        "assignment": prepared.name,
        "time": time.isoformat(timespec="seconds"),
        "notebook_sha256": hashlib.sha256(prepared.content).hexdigest(),
        "answered": prepared.written,
        "unanswered": prepared.unwritten,
    }


def kept(file: str, place: Path, entries: dict[str, Any]) -> Receipt:
    """Write a receipt down.

    Args:
        file: What was handed in.
        place: The receipt's file.
        entries: What it says.

    Returns:
        The receipt, as it was written.
    """
    write_whole(place, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    return Receipt(file, place, entries)


def receipt_text(receipt: Receipt) -> str:
    """A receipt for the terminal: what was handed in, when, and what is in it.

    Args:
        receipt: It.
    """
    said = receipt.entries
    local = datetime.fromisoformat(said["time"]).astimezone()
    zone = local.strftime("%z")
    lines = [
        f"handed in  {receipt.file}" if "exchange" in said else f"packed     {receipt.file}",
        f"SHA-256    {said.get('sha256', said['notebook_sha256'])}",
        f"time       {said['time']} (here {local:%Y-%m-%d %H:%M:%S} {zone[:3]}:{zone[3:]})",
        f"answered   {len(said['answered'])} of {len(said['answered']) + len(said['unanswered'])} parts",
    ]
    if "files" in said:
        lines.append("in it      " + ", ".join(f"{name} ({size:,} bytes)" for name, size in said["files"].items()))
    lines.append(f"receipt    {receipt.kept}")
    if "exchange" not in said:
        lines.append("Hand the archive in as your instructor says, and keep the receipt.")
    return "\n".join(lines)


def _zipped(files: dict[str, bytes], time: datetime) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, time.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
