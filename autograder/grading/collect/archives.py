"""What is in archives that strangers have made: read in memory and counted, so that no name in them is ever a path."""

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import PurePosixPath
from typing import IO

MIB = 1 << 20
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
WANTED = (".ipynb", ".txt", *ENDINGS)  # nothing else is unpacked
DEEPEST = 3  # archives within each other
MOST_FILE = 64 * MIB  # bytes of a file once it is unpacked
MOST_ALL = 2048 * MIB  # of all files of an archive
MOST_ENTRIES = 50_000
MOST_RATIO = 200  # what a file may grow by; notebooks with pictures shrink to a third, text to a tenth


class Refused(Exception):
    """An archive that an honest program does not make; the message says why."""


@dataclass(frozen=True)
class Found:
    """A file. path: its folders and name, without anything that leads out. time: None where nothing says when."""

    path: tuple[str, ...]
    data: bytes
    time: datetime | None = None


def is_archive(name: str) -> bool:
    """Whether the name is one of an archive."""
    return name.lower().endswith(ENDINGS)


def stem(name: str) -> str:
    """A file's name without the ending of an archive or notebook."""
    ending = next((each for each in sorted((*ENDINGS, ".ipynb"), key=len)[::-1] if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)] if ending else name


def unpacked(name: str, data: bytes, zone: tzinfo, most: int = MOST_ALL) -> list[Found]:
    """The notebooks, texts and archives in an archive.

    Args:
        name: Of the archive.
        data: Its bytes.
        zone: Of the times that say none, as those in zip files do.
        most: Bytes that it may have as a whole, once unpacked.

    Returns:
        What was found, in the archive's order.

    Raises:
        Refused: It is damaged or locked, has links or names that lead out of it, or is larger than anybody's work.
    """
    try:
        entries = _zipped(data, zone) if name.lower().endswith(".zip") else _tarred(data)
        found, left = [], most
        for number, entry in enumerate(entries):
            if number >= MOST_ENTRIES:
                raise Refused(f"has over {MOST_ENTRIES} entries")
            left -= len(entry.data)
            if left < 0:
                raise Refused(f"has over {most // MIB} MiB")
            found.append(entry)
        return found
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        OSError,
        ValueError,
        struct.error,
        NotImplementedError,
    ) as error:
        raise Refused(f"cannot be read ({type(error).__name__}: {error})") from error
    except RuntimeError as error:  # zipfile's, for an entry with a password
        raise Refused(f"cannot be read ({error})") from error


def _zipped(data: bytes, zone: tzinfo) -> Iterator[Found]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"has a link or a device, {entry.filename[:80]!r}")
            path = _safe(entry.filename)
            if entry.is_dir() or not path or not path[-1].lower().endswith(WANTED):
                yield Found(path, b"")
                continue
            with archive.open(entry) as file:
                yield Found(path, _counted(file, entry.compress_size, entry.filename), _zip_time(entry, zone))


def _tarred(data: bytes) -> Iterator[Found]:
    total = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        for entry in archive:
            if not (entry.isreg() or entry.isdir()):
                raise Refused(f"has a link or a device, {entry.name[:80]!r}")
            path = _safe(entry.name)
            total += entry.size
            if total > max(MOST_FILE, MOST_RATIO * len(data)):  # what is skipped is unpacked, too
                raise Refused(f"grows to over {MOST_RATIO} times its size")
            file = archive.extractfile(entry) if entry.isreg() and path and path[-1].lower().endswith(WANTED) else None
            time = datetime.fromtimestamp(entry.mtime, UTC)
            yield Found(path, _counted(file, len(data), entry.name) if file else b"", time)


def _counted(file: IO[bytes], packed: int, name: str) -> bytes:
    """All of a file, or no more than is allowed: what an archive says of its sizes may be a lie."""
    most = min(MOST_FILE, max(MIB, MOST_RATIO * packed))
    data = file.read(most + 1)
    if len(data) > most:
        raise Refused(f"has a file that is too large, or grows too much, {name[:80]!r}")
    return data


def _safe(name: str) -> tuple[str, ...]:
    """The parts of a name in an archive.

    Raises:
        Refused: It leads out of the folder.
    """
    if "\x00" in name or "\\" in name or name.startswith("/") or name[1:2] == ":":
        raise Refused(f"has a name that leads out of it, {name[:80]!r}")
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise Refused(f"has a name that leads out of it, {name[:80]!r}")
    return parts


def _zip_time(entry: zipfile.ZipInfo, zone: tzinfo) -> datetime | None:
    """When a file was changed: in UTC where the archive says so, else in the zone of whoever made it."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == 0x5455 and size >= 5 and extra[4] & 1:  # "extended timestamp" of Info-ZIP: seconds in UTC
            return datetime.fromtimestamp(struct.unpack("<i", extra[5:9])[0], UTC)
        extra = extra[4 + size :]
    try:
        return datetime(*entry.date_time, tzinfo=zone).astimezone(UTC)
    except ValueError:
        return None
