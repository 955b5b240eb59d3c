"""What each path answers, and what it refuses, with an engine that follows a script."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import ScriptedEngine

from course_lib.errors import CourseError
from course_lib.inference.server.app import create_app
from course_lib.inference.server.limits import Limits
from course_lib.inference.server.requests import Piece

# The request of the program that this server takes the place of, word for word
SEED = """{
        "prompt": "Write a bedtime story about fireflies.",
        "max_new_tokens": 64,
        "temperature": 0.7,
        "use_cache": true
      }"""
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "tiny", "prompt": "hi"}


def refused(answer, status):
    """The error of an answer, which has OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


def post_text(client, path, body):
    return client.post(path, content=body, headers={"Content-Type": "application/json"})


def test_generate_takes_the_request_of_the_old_program(client):
    engine = ScriptedEngine(max_positions=128)
    answer = post_text(client(engine), "/generate", SEED)
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {
        "text", "finish_reason", "model", "prompt_tokens", "new_tokens", "seconds", "tokens_per_second", "seed"
    }  # fmt: skip
    (request,) = engine.requests
    assert (request.max_new_tokens, request.sampling.temperature, request.use_cache) == (64, 0.7, True)
    assert request.adapter == "one"  # the first adapter, where the call names nobody
    assert (found["model"], found["finish_reason"], found["seed"]) == ("one", "stop", request.seed)
    assert found["prompt_tokens"] == found["new_tokens"] == len("Write a bedtime story about fireflies.")
    assert found["tokens_per_second"] == pytest.approx(found["new_tokens"] / found["seconds"])


def test_generate_without_an_adapter_is_the_base_and_greedy(client):
    engine = ScriptedEngine(adapters=())
    answer = client(engine).post("/generate", json={"prompt": "abc", "use_cache": False})
    assert answer.json()["model"] == "tiny"
    (request,) = engine.requests
    assert (request.sampling.temperature, request.max_new_tokens) == (0.0, 61)
    assert request.use_cache is False
    assert request.adapter is None


def test_models(client):
    asked = client(ScriptedEngine())
    found = asked.get("/v1/models").json()
    assert [(each["id"], each["parent"]) for each in found["data"]] == [
        ("tiny", None),
        ("one", "tiny"),
        ("two", "tiny"),
    ]
    assert asked.get("/v1/models/two").json()["max_model_len"] == 64
    assert refused(asked.get("/v1/models/three"), 404)["code"] == "model_not_found"


def test_chat_writes_the_template_and_says_the_usage(client):
    engine = ScriptedEngine()
    body = CHAT | {"model": "two", "max_completion_tokens": 3, "temperature": 0, "seed": 5, "stop": ["x"]}
    found = client(engine).post("/v1/chat/completions", json=body).json()
    (request,) = engine.requests
    assert len(request.prompt) == len("<user>hi<assistant>")
    assert (request.adapter, request.seed, request.stop) == ("two", 5, ("x",))
    (choice,) = found["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("two:")
    assert choice["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 19, "completion_tokens": 3, "total_tokens": 22}
    assert found["id"].startswith("chatcmpl-")


def test_several_prompts_and_several_answers(client):
    engine = ScriptedEngine(places=8)
    body = {"model": "one", "prompt": [[8, 9], [5, 6, 7]], "n": 2, "seed": 7, "max_tokens": 9}
    found = client(engine).post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert found["choices"][3]["text"] == "one:5 one:6 one:7 "
    assert [request.seed for request in engine.requests] == [7, 8, 7, 8]
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}


def test_completions_add_sixteen_tokens_where_nothing_is_said_and_fewer_where_there_is_no_room(client):
    engine = ScriptedEngine()
    asked = client(engine)
    asked.post("/v1/completions", json=COMPLETION)
    asked.post("/v1/completions", json=COMPLETION | {"prompt": "a" * 60})
    asked.post("/v1/chat/completions", json=CHAT)
    assert [request.max_new_tokens for request in engine.requests] == [16, 4, 64 - 19]


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    return [block.removeprefix("data: ") for block in blocks]


def test_the_events_of_a_chat(client):
    body = CHAT | {"stream": True, "max_tokens": 2, "stream_options": {"include_usage": True}}
    *parts, done = events(client(ScriptedEngine()).post("/v1/chat/completions", json=body))
    assert done == "[DONE]"
    role, first, second, end, usage = map(json.loads, parts)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["delta"]["content"].startswith("base:")
    assert second["choices"][0]["finish_reason"] is None
    assert end["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length", "logprobs": None}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert {part["object"] for part in (role, first, end, usage)} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (Piece(finish_reason="error", error="It broke."), "server_error"),
        (Piece(finish_reason="cancelled"), "server_error"),
        (None, "server_error"),  # the engine ends without a reason
    ],
)
def test_a_stream_that_fails_has_an_error_and_no_end(client, last, kind):
    def broken(request):
        yield Piece((1,), "Once ")
        if last is not None:
            yield last

    asked = client(ScriptedEngine(broken))
    *parts, error = events(asked.post("/v1/completions", json=COMPLETION | {"stream": True}))
    assert json.loads(error)["error"]["type"] == kind
    assert [json.loads(part)["choices"][0]["finish_reason"] for part in parts] == [None]
    answer = asked.post("/v1/completions", json=COMPLETION)  # not streamed: a status
    assert refused(answer, 503 if last and last.finish_reason == "cancelled" else 500)["type"] == kind


def test_text_of_any_kind_survives_a_stream(client):
    text = 'a\u2028b\r\n\x00"\\ \U0001f600 data: [DONE]'

    def script(request):
        yield Piece((1,), text, "stop")

    (part, done) = events(client(ScriptedEngine(script)).post("/v1/completions", json=COMPLETION | {"stream": True}))
    assert json.loads(part)["choices"][0]["text"] == text
    assert part.isascii()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("", 422, "JSON object"),
        ("[1]", 422, "JSON object"),
        ("null", 422, "JSON object"),
        ('{"prompt": "a"', 400, "not JSON"),
        (b'{"prompt": "\xff"}', 400, "not JSON"),
        ("[" * 100_000, 400, "nested too deeply"),
        ('{"prompt": "a", "prompt": "b"}', 400, "same key twice"),
        ('{"prompt": "a", "max_new_tokens": ' + "9" * 5000 + "}", 400, "not JSON"),
        ('{"prompt": "a", "max_new_tokens": NaN}', 422, "NaN"),
        ('{"prompt": "a", "temperature": NaN}', 422, "NaN"),
        ('{"prompt": "a", "temperature": -Infinity}', 422, "-Infinity"),
        ('{"prompt": "a", "temperature": 1e999}', 422, "finite"),
        (r'{"prompt": "\ud800"}', 422, "surrogate"),
        (r'{"prompt": "a", "stop": ["\udfff"]}', 422, "surrogate"),
        ('{"prompt": ""}', 422, "prompt"),
        ('{"prompt": 3}', 422, "prompt"),
        ('{"prompt": "a", "max_new_tokens": "3"}', 422, "max_new_tokens"),
        ('{"prompt": "a", "max_new_tokens": true}', 422, "max_new_tokens"),
        ('{"prompt": "a", "max_new_tokens": 2.5}', 422, "max_new_tokens"),
        ('{"prompt": "a", "max_new_tokens": 0}', 422, "max_new_tokens"),
        ('{"prompt": "a", "max_new_tokens": 41}', 422, "At most 40 new tokens"),
        ('{"prompt": "a", "temperature": -0.1}', 422, "temperature"),
        ('{"prompt": "a", "temperature": 1e-9}', 422, "temperature"),
        ('{"prompt": "a", "temperature": 3}', 422, "temperature"),
        ('{"prompt": "a", "top_p": 0}', 422, "top_p"),
        ('{"prompt": "a", "min_p": 1.1}', 422, "min_p"),
        ('{"prompt": "a", "repetition_penalty": 0}', 422, "repetition_penalty"),
        ('{"prompt": "a", "seed": 9223372036854775808}', 422, "seed"),
        ('{"prompt": "a", "stop": [""]}', 422, "stop"),
        ('{"prompt": "a", "use_cache": 1}', 422, "use_cache"),
        ('{"prompt": "a", "max_tokens": 3}', 422, "max_tokens is not a setting of this server"),
        ('{"prompt": "a", "model": "three"}', 404, "There are: tiny, one, two"),
        ('{"prompt": "' + "a" * 51 + '"}', 400, "The prompt has 51 tokens, and at most 50"),
        ('{"prompt": "' + "a" * 40 + '", "max_new_tokens": 30}', 400, "40 + 30 > 64"),
    ],
)
def test_what_generate_refuses(client, body, status, said):
    engine = ScriptedEngine()
    asked = client(engine, limits=Limits(max_prompt_tokens=50, max_new_tokens=40))
    assert said in refused(post_text(asked, "/generate", body), status)["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "more", "status", "said"),
    [
        ("completions", {"prompt": []}, 422, "empty"),
        ("completions", {"prompt": [[]]}, 422, "empty"),
        ("completions", {"prompt": [999]}, 422, "no token 999"),
        ("completions", {"prompt": [-1]}, 422, "no token -1"),
        ("completions", {"prompt": ["a"] * 5, "n": 2}, 422, "at most 8 answers"),
        ("completions", {"n": 10**9}, 422, "at most 8 answers"),
        ("completions", {"n": 0}, 422, "n"),
        ("completions", {"model": "three"}, 404, "three"),
        ("completions", {"stream": 1}, 422, "stream"),
        ("completions", {"stream_options": {}}, 422, "stream_options needs stream"),
        ("completions", {"echo": True}, 422, "echo is not a setting"),
        ("completions", {"logprobs": 1}, 422, "logprobs is not a setting"),
        ("chat/completions", {"frequency_penalty": 0.5}, 422, "frequency_penalty is not a setting"),
        ("chat/completions", {"tools": [{"type": "function"}]}, 422, "tools is not a setting"),
        ("chat/completions", {"messages": []}, 422, "messages"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, 422, "messages.0.role"),
        ("chat/completions", {"messages": [{"role": "user"}]}, 422, "messages.0.content"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, 422,
         "late system"),
    ],
)  # fmt: skip
def test_what_openai_calls_refuse(client, path, more, status, said):
    engine = ScriptedEngine(places=20)
    body = (CHAT if path.startswith("chat") else COMPLETION) | more
    assert said in refused(client(engine).post(f"/v1/{path}", json=body), status)["message"]
    assert engine.running == set()


def test_settings_that_change_nothing_are_taken(client):
    body = CHAT | {"frequency_penalty": 0, "logprobs": False, "tools": None, "user": "me", "n": 1, "top_k": -1}
    body["messages"] = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "assistant", "content": "ok", "refusal": None},
    ]
    engine = ScriptedEngine()
    assert client(engine).post("/v1/chat/completions", json=body).status_code == 200
    assert len(engine.requests[0].prompt) == len("<system>be brief<assistant>ok<assistant>")


def test_a_model_without_a_chat_template(client, letters):
    asked = client(ScriptedEngine(), letters)
    assert "no chat template" in refused(asked.post("/v1/chat/completions", json=CHAT), 422)["message"]
    assert asked.get("/v1/models/tiny").json()["chat"] is False


def test_a_full_queue_says_when_to_come_back_and_takes_all_or_nothing(client):
    engine = ScriptedEngine(places=2)
    answer = client(engine).post("/v1/completions", json=COMPLETION | {"n": 3})
    assert refused(answer, 429)["code"] == "queue_full"
    assert answer.headers["retry-after"] == "3"
    assert engine.running == set()


def test_paths_and_methods_that_do_not_exist(client):
    asked = client(ScriptedEngine())
    refused(asked.get("/nowhere"), 404)
    refused(asked.get("/generate"), 405)
    refused(asked.get("/docs"), 404)  # FastAPI's page would load scripts from another host


def test_health_and_metrics(client):
    asked = client(ScriptedEngine())
    assert asked.get("/health").json() == {"status": "ok"}
    asked.post("/v1/completions", json=COMPLETION)
    asked.get("/an/address/of/a/stranger")
    families = text_string_to_metric_families(asked.get("/metrics").text)
    samples = {(each.name, each.labels.get("path"), each.labels.get("status")): each.value
               for family in families for each in family.samples}  # fmt: skip
    assert samples["course_http_requests_total", "/v1/completions", "200"] == 1
    assert samples["course_http_requests_total", "other", "404"] == 1
    assert samples["course_first_token_seconds_count", None, None] == 1
    assert samples["course_requests_total", None, None] == 1
    assert samples["course_pages_total", None, None] == 8
    assert samples["course_running", None, None] == 0


def test_the_engine_is_shut_down_with_the_application(client, chatty):
    engine = ScriptedEngine()
    asked = client(engine)
    assert engine.stopped is None
    asked.__exit__(None, None, None)
    assert engine.stopped is True


def test_an_adapter_may_not_have_the_bases_name(chatty):
    with pytest.raises(CourseError, match="both called tiny"):
        create_app(ScriptedEngine(adapters=("tiny",)), chatty, "tiny")


def test_the_description_names_the_models_and_both_kinds_of_answers(client):
    found = client(ScriptedEngine()).get("/openapi.json").json()
    parts = found["components"]["schemas"]
    assert parts["ChatBody"]["properties"]["model"]["enum"] == ["tiny", "one", "two"]
    assert parts["GenerateBody"]["properties"]["model"]["anyOf"][0]["enum"] == ["tiny", "one", "two"]
    assert parts["ChatBody"]["additionalProperties"] is False
    answers = found["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert answers["429"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorAnswer")
