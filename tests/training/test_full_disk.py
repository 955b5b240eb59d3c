"""A checkpoint that cannot be written is one sentence, and leaves what was there. (tests/cluster fills a real disk.)"""

import pytest
import torch
from safetensors import SafetensorError

from course_lib.errors import CourseError
from course_lib.training import checkpoint
from course_lib.training.checkpoint import Checkpoints

FULL = [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")]


@pytest.mark.parametrize("error", FULL, ids=["the system's", "safetensors'"])
def test_the_sentence_names_the_folder_and_the_cause(error, tmp_path, monkeypatch):
    model = torch.nn.Linear(3, 2)
    saved = Checkpoints(tmp_path, model, torch.optim.AdamW(model.parameters()))
    saved.save(1)

    def write(tensors, path):
        path.write_bytes(b"a part of it")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", write)
    with pytest.raises(CourseError, match=r"step_000002 could not be written: .*No space left on device.*\$SCRATCH"):
        saved.save(2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    assert saved.load()["step"] == 1
