"""The book's page about serving says what the server does."""

import re
from pathlib import Path

from scripted_engine import ScriptedEngine

from course_lib.inference.server.metrics import ABOUT
from course_lib.inference.server.schemas import NEUTRAL, ChatBody, CompletionBody, GenerateAnswer, GenerateBody

PAGE = (Path(__file__).parents[3] / "book" / "serving.md").read_text(encoding="utf-8")


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
