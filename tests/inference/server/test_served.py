"""`course serve` as users start it: its own process, the real engine, a tiny model, the real clients."""

import concurrent.futures
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import wait_until
from served import served
from tiny_runs import loaded

from course_lib.adapters import load_adapter
from course_lib.inference import complete


def numbers(server):
    """The samples of /metrics by name, those without labels."""
    return numbers_of(httpx.get(f"{server.url}/metrics").text)


def numbers_of(text):
    families = text_string_to_metric_families(text)
    return {each.name: each.value for family in families for each in family.samples if not each.labels}


def client_of(server, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, **options)


@pytest.mark.parametrize("name", ["tiny", "one", "two"])
def test_the_text_of_the_model_alone(server, folders, chatty, name):
    model = loaded(folders["tiny"])
    if name != "tiny":
        load_adapter(model, folders[name])
    expected = complete(model, chatty, ["The wind "], 20)[0]
    client = client_of(server)
    call = {"model": name, "prompt": "The wind ", "max_tokens": 20, "temperature": 0}
    assert client.completions.create(**call).choices[0].text == expected
    assert "".join(part.choices[0].text for part in client.completions.create(**call, stream=True)) == expected
    body = {"prompt": "The wind ", "max_new_tokens": 20, "model": name}
    for use_cache in (True, False):
        answer = httpx.post(f"{server.url}/generate", json=body | {"use_cache": use_cache}).json()
        assert answer["text"] == expected
    asked = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "hi"}], max_tokens=20, temperature=0
    )
    assert asked.choices[0].message.content == complete(model, chatty, ["<user>hi<assistant>"], 20)[0]


def test_curl_with_the_request_of_the_old_program(server):
    # The prompt alone has 38 tokens of the 128 that the tiny model has room for.
    request = """curl -sS -X POST {url}/generate \
  -H "Content-Type: application/json" \
  -d '{{
        "prompt": "Write a bedtime story about fireflies.",
        "max_new_tokens": 64,
        "temperature": 0.7,
        "use_cache": true
      }}'"""
    run = subprocess.run(["sh", "-c", request.format(url=server.url)], capture_output=True, text=True, check=True)
    answer = json.loads(run.stdout)
    assert answer["model"] == "one"
    assert answer["new_tokens"] == 64 or answer["finish_reason"] == "stop"
    again = httpx.post(
        f"{server.url}/generate",
        json={"prompt": "Write a bedtime story about fireflies.", "max_new_tokens": 64, "temperature": 0.7}
        | {"seed": answer["seed"]},
    )
    assert again.json()["text"] == answer["text"]


def test_a_client_that_goes_frees_its_pages(server):
    before = numbers(server)["course_cancelled_total"]
    call = {"model": "tiny", "prompt": "a", "max_tokens": 120, "extra_body": {"ignore_eos": True}}
    with client_of(server).completions.create(**call, n=4, stream=True) as stream:
        next(stream)
    with pytest.raises(openai.APITimeoutError):
        client_of(server, timeout=0.02).completions.create(**call, n=8)
    wait_until(lambda: numbers(server)["course_running"] == numbers(server)["course_waiting"] == 0)
    after = numbers(server)
    assert after["course_pages_used"] == 0
    assert after["course_cancelled_total"] > before


@pytest.mark.slow
def test_schemathesis_finds_no_5xx(folders, tmp_path):
    """Calls made from the description, valid and not, always the same ones; answers are short, to bound the time."""
    short = ("--max-new-tokens", 4, "--max-answers", 2)
    with served("--model", folders["tiny"], "--adapter", folders["one"], *short) as running:
        program = Path(sys.executable).with_name("schemathesis")
        words = [str(program), "run", f"{running.url}/openapi.json", "--no-color", "--request-timeout", "30"]
        words += ["--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"]
        words += ["--phases", "coverage,fuzzing", "--max-examples", "12", "--generation-deterministic"]
        run = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=400)
        assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
        found = httpx.get(f"{running.url}/metrics").text
    assert numbers_of(found)["course_errors_total"] == 0
    # The calls got as far as the model.
    for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
        assert f'course_http_requests_total{{path="{path}",status="200"}}' in found, path


def test_a_second_ctrl_c_does_not_wait(folders):
    with served("--model", folders["tiny"], "--max-answers", 2000, "--max-queue", 2000) as running:
        call = {"model": "tiny", "prompt": "a", "max_tokens": 100, "n": 2000, "ignore_eos": True}  # takes far longer
        statuses = []
        asking = threading.Thread(
            target=lambda: statuses.append(
                httpx.post(f"{running.url}/v1/completions", json=call, timeout=60).status_code
            )
        )
        asking.start()
        while not numbers(running)["course_running"]:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGINT)
        while "Waiting for connections to close" not in running.output:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGINT)
        asking.join(60)
        assert running.process.wait(30) == 128 + signal.SIGINT  # and not the -6 of a crash
        assert statuses == [503]


def test_sigterm_finishes_what_runs(folders):
    with served("--model", folders["tiny"], "--max-batch", 2) as running:
        call = {"model": "tiny", "prompt": "a", "max_tokens": 120, "temperature": 0, "n": 8}
        client, found = client_of(running), []

        def read(stream):
            texts, reasons = [""] * 8, [None] * 8
            for part in stream:
                texts[part.choices[0].index] += part.choices[0].text
                reasons[part.choices[0].index] = part.choices[0].finish_reason
            found.append((set(texts), set(reasons)))

        ignore_end = {"ignore_eos": True}
        streams = [client.completions.create(**call, stream=True, extra_body=ignore_end) for _ in range(6)]
        readers = [threading.Thread(target=read, args=(stream,)) for stream in streams]
        for reader in readers:
            reader.start()
        before = numbers(running)
        running.process.send_signal(signal.SIGTERM)
        assert before["course_waiting"] > 4  # two of the 48 answers run, and most of them have to wait
        for reader in readers:
            reader.join(60)
        assert [reasons for _, reasons in found] == [{"length"}] * 6
        assert len(set.union(*(texts for texts, _ in found))) == 1
        assert running.process.wait(30) == 128 + signal.SIGTERM
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    assert "Traceback" not in running.output


def test_a_full_queue_and_a_key(folders):
    words = ["--model", folders["tiny"], "--max-batch", 1, "--max-queue", 1]
    with served(*words, COURSE_SERVE_API_KEY="secret") as running:
        with pytest.raises(openai.AuthenticationError):
            client_of(running).models.list()
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="secret", max_retries=0)
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(model="tiny", prompt="a", max_tokens=100, n=5, extra_body={"ignore_eos": True})
        assert int(full.value.response.headers["retry-after"]) >= 1
        assert client.completions.create(model="tiny", prompt="a").choices
    assert "secret" not in running.output


def calls(count, chance):
    """Mixed calls: models, lengths of prompts and answers, streams and whole answers."""
    words = ["the", "keeper", "lit", "lamp", "wind", "and", "noted", "storm"]
    for _ in range(count):
        prompt = " ".join(chance.choices(words, k=chance.randint(1, 10)))
        yield {
            "model": chance.choice(["tiny", "one", "two"]),
            "prompt": prompt,
            "max_tokens": chance.randint(1, 40),
            "temperature": chance.choice([0, 0, 0.8]),
            "seed": chance.randint(0, 9),
            "stream": chance.random() < 0.5,
        }


def ask(client, call):
    answer = client.completions.create(**call)
    if not call["stream"]:
        return answer.choices[0].text, answer.choices[0].finish_reason
    parts = list(answer)
    return "".join(part.choices[0].text for part in parts), parts[-1].choices[0].finish_reason


@pytest.mark.slow
def test_fifty_clients_and_five_hundred_calls(server):
    """Each answer is the one that the call gets alone; none is lost, and no page stays in use."""
    given = list(calls(500, random.Random(0)))
    clients = [client_of(server) for _ in range(50)]
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        together = list(pool.map(lambda pair: ask(clients[pair[0] % 50], pair[1]), enumerate(given)))
    print(f"500 calls of 50 clients in {time.perf_counter() - started:.1f} s")
    after = numbers(server)
    assert (after["course_running"], after["course_waiting"], after["course_pages_used"]) == (0, 0, 0)
    alone = [ask(clients[0], call) for call in given]
    assert together == alone
    assert len(set(alone)) > 300
