"""A disk that is full when a checkpoint is written: one sentence, no half checkpoint, and the earlier ones stay."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from course_lib.errors import CourseError
from course_lib.training import checkpoint
from course_lib.training.master_weights import make_adamw


@pytest.fixture
def points(tmp_path):
    model = torch.nn.Linear(2, 2)
    made = checkpoint.Checkpoints(tmp_path / "checkpoints", model, make_adamw(list(model.parameters()), 1e-3, 0.0))
    made.save(1)
    return made


# safetensors has an error of its own, which is no OSError and carries no number.
IN_RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FULL = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"), IN_RUST]


@pytest.mark.parametrize("error", FULL, ids=["disk", "quota", "safetensors"])
def test_a_full_disk_is_one_sentence(points, monkeypatch, error):
    def fail(tensors, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    said = r"step_000002 could not be written: the disk of .* is full.*\$SCRATCH.*--resume"
    with pytest.raises(CourseError, match=said):
        points.save(2)
    assert [path.name for path in points.folder.iterdir()] == ["step_000001"]
    assert points.load() == {"step": 1, "extra": {}}


def test_another_error_is_not_taken_for_it(points, monkeypatch):
    def fail(tensors, path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="Input/output error"):
        points.save(2)
