"""Which stages of a pipeline are done, and whether what they were made from has changed.

A stage's folder holds what the stage wrote and, once the stage is done, `stage.json`. That file has a fingerprint of
the stage's settings, of the files that it read and of the code that computed it. A stage with the same fingerprint does
not run again. While a stage runs, `started.json` has the fingerprint, so that a killed stage goes on from its own
checkpoints and never from those of other settings.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.files import write_json

DONE, STARTED = "stage.json", "started.json"
# The rooms whose code decides what a stage computes, beside the single modules on the ground (seeding, rounding, ...).
ROOMS = ("data", "scratch", "models", "training", "inference", "evaluation", "finetuning", "alignment")
NOT_INPUTS = {DONE, STARTED, "log.jsonl", "loss.png", "run.json", "summary.json", "curve.json"}
CHUNK = 1 << 20


@cache
def code_version() -> str:
    """A hash of the sources that decide a stage's numbers, because another version of them may give other numbers."""
    digest, root = hashlib.sha256(), Path(str(files("course_lib")))
    in_rooms = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    for path in [*sorted(root.glob("*.py")), *in_rooms]:
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Key:
    """What a stage depends on.

    Attributes:
        settings: the settings that decide its numbers.
        inputs: the hash of every file that it reads from other stages, by "stage/file".
        code: the version of the code, see `code_version`.

    Example:
        >>> key = Key({"lr": 0.001}, {}, "v1")
        >>> key.fingerprint() == Key({"lr": 0.002}, {}, "v1").fingerprint()
        False
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    code: str

    def fingerprint(self) -> str:
        """A hash of everything that the stage depends on."""
        about = json.dumps([self.settings, self.inputs, self.code], sort_keys=True, default=list)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The same as a dictionary, for stage.json."""
        return {"settings": self.settings, "inputs": self.inputs, "code": self.code}


class StageFolder:
    """The folder of one stage.

    Args:
        path: the folder, which need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path

    def record(self) -> dict[str, Any] | None:
        """What stage.json says, or None where the stage is not done."""
        return _read(self.path / DONE)

    def outputs(self) -> dict[str, str]:
        """The hash of every file that a done stage wrote for others."""
        return (self.record() or {}).get("outputs", {})

    def changes(self, key: Key) -> list[str]:
        """Say in words why a stage has to run.

        Args:
            key: what the stage depends on now.

        Returns:
            The reasons; an empty list where the stage is done and up to date.
        """
        record = self.record()
        if record is None:
            return ["it is not done"]
        missing = [name for name in record["outputs"] if not (self.path / name).is_file()]
        if missing:
            return [f"{missing[0]} is missing"]
        if record["fingerprint"] == key.fingerprint():
            return []
        before = record["key"]
        found = [f"{name} is {_short(key.settings.get(name))}, and was {_short(before['settings'].get(name))}"
                 for name in sorted(key.settings.keys() | before["settings"].keys())
                 if _plain(key.settings.get(name)) != before["settings"].get(name)]  # fmt: skip
        stages = {name.partition("/")[0] for name in key.inputs.keys() | before["inputs"].keys()
                  if key.inputs.get(name) != before["inputs"].get(name)}  # fmt: skip
        found += [f"what {name} wrote has changed" for name in sorted(stages)]
        return found + (["the code has changed"] if key.code != before["code"] else [])

    def begin(self, key: Key) -> bool:
        """Claim the folder for a run.

        Args:
            key: what the run depends on.

        Returns:
            Whether a run with the same key was interrupted here and can go on. If not, everything that an earlier run
            left is removed.

        Raises:
            CourseError: the folder holds files that no stage wrote.
        """
        started = _read(self.path / STARTED)
        if started is not None and started["fingerprint"] == key.fingerprint() and not (self.path / DONE).exists():
            return True
        if self.path.exists():
            if started is None and self.record() is None and any(self.path.iterdir()):
                raise CourseError(
                    f"{self.path} holds files that no stage of a pipeline wrote. Choose another --output."
                )
            trash = self.path.with_name(f".{self.path.name}.old")
            shutil.rmtree(trash, ignore_errors=True)
            self.path.rename(trash)  # first: half a folder must not look like an interrupted run
            shutil.rmtree(trash, ignore_errors=True)
        write_json(self.path / STARTED, {"fingerprint": key.fingerprint()} | key.to_dict())
        return False

    def finish(self, key: Key, about: dict[str, Any]) -> None:
        """Write stage.json, which says that the stage is done.

        Args:
            key: what the stage depended on.
            about: what the report needs, such as the time that the stage took.
        """
        outputs = {
            path.relative_to(self.path).as_posix(): file_hash(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name not in NOT_INPUTS and not _is_scratch(path.relative_to(self.path))
        }
        write_json(
            self.path / DONE, {"fingerprint": key.fingerprint(), "outputs": outputs, "key": key.to_dict(), **about}
        )

    def forget(self) -> None:
        """Make the stage run again from its beginning, although nothing has changed."""
        for name in (DONE, STARTED):
            if (self.path / name).exists():
                (self.path / name).replace(self.path / STARTED)
        if (self.path / STARTED).exists():
            write_json(self.path / STARTED, {"fingerprint": ""})


def _is_scratch(path: Path) -> bool:
    """Whether a file is there only for resuming."""
    return path.parts[0] in ("checkpoints", "base") or any(part.startswith(".") for part in path.parts)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} cannot be read ({error}). Delete it, and the stage runs again.") from error


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=list))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:37]}..."
