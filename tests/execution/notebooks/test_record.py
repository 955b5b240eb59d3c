import json

import numpy as np
import pytest
import torch

from course_lib.errors import CourseError
from course_lib.execution import Recorder


def test_merges_and_converts(tmp_path):
    record = Recorder(tmp_path / "out")
    record(loss=torch.tensor(2.5), steps=np.int64(3))
    record(curve=[1.0, np.float32(0.5)], nested={"a": True}, loss=2.0)
    assert json.loads(record.path.read_text()) == {"loss": 2.0, "steps": 3, "curve": [1.0, 0.5], "nested": {"a": True}}
    assert [path.name for path in record.path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")]])
def test_a_number_must_be_finite(tmp_path, value):
    with pytest.raises(CourseError, match="record.loss.*finite"):
        Recorder(tmp_path)(loss=value)


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(CourseError, match="record.model.*object"):
        Recorder(tmp_path)(model=object())
