"""The page about the code follows one training step. Here one is taken, and each file that it passes through noted."""

import re
import sys
from pathlib import Path

import numpy as np
import torch

import course_lib
from course_lib.adapters import inject_lora
from course_lib.data import pad
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder
from course_lib.training import Trainer, TrainingConfig

PACKAGE = Path(course_lib.__file__).parent
PAGE = PACKAGE.parent / "book" / "architecture.md"


def files_of(action):
    """The files of the course's rooms whose functions are called, by their paths in the repository."""
    found = set()

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents and path.parent != PACKAGE:
            found.add(path.relative_to(PACKAGE.parent).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return found


def test_the_page_names_every_file_that_a_step_passes_through():
    torch.manual_seed(0)
    model = Decoder(CONFIGS["tiny-llama"])
    inject_lora(model, ["q_proj", "v_proj", "down_proj"], rank=2)
    trainer = Trainer(model.train(), TrainingConfig(lr=1e-3), log_every=0)
    ids = np.random.default_rng(0).integers(0, 90, (2, 24)).tolist()
    batch = pad([{"input_ids": row, "labels": row} for row in ids], 0)
    passed = files_of(lambda: trainer.step(0, 1, [batch]))
    assert {"course_lib/models/fused_loss.py", "course_lib/training/clipping.py"} <= passed
    section = PAGE.read_text(encoding="utf-8").split("## What one training step passes through")[1].split("\n## ")[0]
    assert passed - set(re.findall(r"`(course_lib/[\w/]+\.py)`", section)) == set()
