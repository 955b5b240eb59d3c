"""The settings of a server: variables of the environment, names of adapters, and what the book's page says of them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from course_lib.errors import CourseError
from course_lib.inference.server.limits import Limits
from course_lib.options import flag_of
from course_lib.serve.settings import (
    OTHER_VARIABLES,
    PREFIX,
    ServeSettings,
    as_environment,
    from_environment,
    named_adapters,
)

PAGE = (Path(__file__).parents[2] / "book" / "serving.md").read_text(encoding="utf-8")


def test_only_a_choice_has_other_names():
    settings = from_environment({"COURSE_SERVE_API_KEY": "fp32", "COURSE_SERVE_WEIGHTS": "bf16", "MODEL_PATH": "bf16"})
    assert (settings.api_key, settings.weights, settings.model) == ("fp32", "bfloat16", "bf16")


def test_settings_survive_the_environment():
    settings = ServeSettings(
        model="m", adapter=("a=b", "c=d"), without_key=True, host="0.0.0.0", time_limit=1.5, port=0, max_prompt_tokens=9
    )
    assert from_environment(as_environment(settings)) == settings
    assert as_environment(ServeSettings()) == {}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"COURSE_SERVE_PROT": "1"}, "no setting COURSE_SERVE_PROT. Did you mean COURSE_SERVE_PORT"),
        ({"COURSE_SERVE_PORT": "x"}, "COURSE_SERVE_PORT is 'x'; it has to be a number"),
        ({"COURSE_SERVE_PORT": "70000"}, "--port 70000"),
        ({"COURSE_SERVE_WITHOUT_KEY": "maybe"}, "true or false"),
        ({"COURSE_SERVE_WEIGHTS": "int2"}, "--weights int2"),
        ({"COURSE_SERVE_TIME_LIMIT": "nan"}, "--time-limit nan"),
        ({"COURSE_SERVE_HOST": "0.0.0.0"}, "there is no API key"),
    ],
)
def test_variables_that_are_not_possible(environment, said):
    with pytest.raises(CourseError, match=said):
        from_environment(environment)


def test_names_of_adapters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs" / "lr=0.1").mkdir(parents=True)
    assert named_adapters(("my runs/lr=0.1",)) == {"lr=0.1": Path("my runs/lr=0.1")}
    assert named_adapters(("a=my runs/lr=0.1",)) == {"a": Path("my runs/lr=0.1")}
    assert {name: str(path) for name, path in named_adapters(("a=x/y", "runs/notes", "b=p=q")).items()} == {
        "a": "x/y", "notes": "runs/notes", "b": "p=q"
    }  # fmt: skip
    with pytest.raises(CourseError, match="Two adapters are called a"):
        named_adapters(("a=x", "a=y"))


def test_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `(COURSE_SERVE_\w+)`[^|]*\| `[\w-]+` \| ([^|]*) \|$", PAGE, re.M))
    assert set(rows) == {PREFIX + each.name.upper() for each in fields(ServeSettings)}
    for each in fields(ServeSettings):
        assert f"`{flag_of(each.name)}`" in PAGE
        if isinstance(each.default, int | float) and not isinstance(each.default, bool):
            assert rows[PREFIX + each.name.upper()] == f"{each.default:g}".replace("1e+06", "1000000")
    for variable in OTHER_VARIABLES:
        assert f"`{variable}`" in PAGE


def test_the_two_places_of_a_limit_agree():
    settings, limits = ServeSettings(), Limits()
    for name in ("max_body_bytes", "max_prompt_tokens", "max_new_tokens", "max_answers", "time_limit"):
        assert getattr(settings, name) == getattr(limits, name), name
    assert f"{limits.body_time_limit:g} seconds for a body" in PAGE
