"""The recorded run of the pipeline, and the profile that it is of."""

import pytest

from course_lib.alignment.pipeline.recorded import recorded_run
from course_lib.alignment.pipeline.running import STAGES
from course_lib.alignment.pipeline.table import COLUMNS
from course_lib.errors import CourseError


def test_it_has_every_stage_and_every_column():
    run = recorded_run("cpu")
    assert list(run["stages"]) == [stage.name for stage in STAGES]
    assert all(set(row) == set(COLUMNS) for row in run["rows"])
    assert run["stages"]["pretrain"]["tokens"] == 1_099_904


def test_another_profile_is_refused():
    with pytest.raises(CourseError, match="'gpu'"):
        recorded_run("gpu")
