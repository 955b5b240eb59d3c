"""Which engine answers, on the CPU and on a GPU."""

from dataclasses import replace

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.inference.server.engine import BatchingEngine
from course_lib.inference.server.plain import PlainEngine
from course_lib.models.pretrained import load
from course_lib.serve import running
from course_lib.serve.loading import Loaded
from course_lib.serve.settings import ServeSettings


def test_a_gpu_answers_one_after_another(base, letters, monkeypatch, capsys):
    """The engine that batches is for the CPU; `choose_device` stands in for a machine with a GPU."""

    class OnGPU(torch.nn.Module):
        """Says where it is asked to go, and stays."""

        asked: str | None = None

        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def to(self, device):
            OnGPU.asked = device
            return self.model

    monkeypatch.setattr(running, "choose_device", lambda name: "cuda" if name == "auto" else name)
    held = Loaded(load(base)[0], letters, str(base), {})
    for device, kind, told in (
        ("auto", BatchingEngine, "--device cuda or --backend vllm computes on the GPU"),
        ("cpu", BatchingEngine, ""),
        ("cuda", PlainEngine, "is for the CPU, and the device is cuda, so requests are answered one after another"),
    ):
        given = held if kind is BatchingEngine else replace(held, model=OnGPU(held.model))
        engine = running.make_engine(given, ServeSettings(device=device))
        engine.shut_down(finish=False)
        assert isinstance(engine, kind)
        error = capsys.readouterr().err
        assert told in error
        assert bool(error) == bool(told)
    assert OnGPU.asked == "cuda"
    with pytest.raises(CourseError, match="--weights int8 is for Llamas with LoRA on a CPU"):
        running.make_engine(held, ServeSettings(device="cuda", weights="int8"))
