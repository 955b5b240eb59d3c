"""The book's page about serving says what the server does."""

import re
from dataclasses import fields
from pathlib import Path

from scripted_engine import ScriptedEngine

from course_lib.inference.server.limits import Limits
from course_lib.inference.server.metrics import ABOUT
from course_lib.inference.server.schemas import NEUTRAL, ChatBody, CompletionBody, GenerateAnswer, GenerateBody
from course_lib.options import flag_of
from course_lib.serve.settings import OTHER_VARIABLES, PREFIX, ServeSettings

PAGE = (Path(__file__).parents[3] / "book" / "serving.md").read_text(encoding="utf-8")


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


def test_fields_of_calls_and_answers():
    named = set(re.findall(r"`\"?(\w+)[\"`:]", PAGE))
    ours = {"chat", "use_cache", "max_new_tokens", "model", "temperature"}
    assert set(GenerateAnswer.model_fields) | ours <= named
    assert ours <= set(GenerateBody.model_fields)
    for body in (ChatBody, CompletionBody):
        assert set(body.model_fields) - {"model", "prompt", "messages"} <= named
    assert {"tools", "logprobs"} <= NEUTRAL.keys()


def test_paths_and_metrics(client):
    asked = client(ScriptedEngine())
    for path in asked.get("/openapi.json").json()["paths"]:
        assert f" {path.replace('{name}', 'NAME')}`" in PAGE, path
    for name in ABOUT:
        assert f"`course_{name}`" in PAGE, name
    for name in re.findall(r"`(course_(?:http|first)\w+)", PAGE):
        assert name.removesuffix("_total") in asked.get("/metrics").text
