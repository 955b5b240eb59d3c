"""`course serve`: settings from options and the environment, the old program's command line, and what is refused."""

import shlex
import shutil
import socket
import subprocess
import sys

import httpx
import pytest
from served import served
from tiny_runs import course

# The old program's own command, but for its package's name; PLAIN is what uvicorn itself understands of it.
SEED = """uvicorn src.serve:app --reload --port 8000 \
  --factory --env-file .env \
  -- --model_path outputs/qlora --adapter_path outputs/qlora"""
PLAIN = """uvicorn course_lib.serve:app --port 0 \
  --factory --env-file .env"""
REQUEST = {
    "prompt": "Write a bedtime story about fireflies.",
    "max_new_tokens": 64,
    "temperature": 0.7,
    "use_cache": True,
}


@pytest.fixture
def started(monkeypatch):
    """What `course serve` would have started, in place of starting it."""
    found = []
    monkeypatch.setattr(
        "course_lib.serve.running.serve", lambda settings, reload: found.append((settings, reload)) or 0
    )
    for name in ("MODEL_PATH", "ADAPTER_PATH"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def outputs(base, adapter, tmp_path, monkeypatch):
    """The old program's folders: outputs/qlora is an adapter that names its base."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copytree(adapter("qlora"), tmp_path / "outputs" / "qlora")
    return tmp_path


def test_the_old_programs_words(outputs, started):
    (outputs / ".env").write_text("COURSE_SERVE_MAX_BATCH=3\n")
    words = shlex.split(SEED)[1:]
    assert course("serve", *words) == 0
    ((settings, reload),) = started
    assert (settings.model, settings.adapter, settings.port) == ("outputs/qlora", ("outputs/qlora",), 8000)
    assert settings.max_batch == 3
    assert reload is True


@pytest.mark.slow
def test_the_old_programs_model_is_its_adapter_with_its_base(outputs, base):
    with served("--model_path", "outputs/qlora", "--adapter_path", "outputs/qlora", cwd=outputs) as running:
        answer = httpx.post(f"{running.url}/generate", json=REQUEST).json()
        assert answer["model"] == "qlora"
        models = httpx.get(f"{running.url}/v1/models").json()["data"]
        assert [model["id"] for model in models] == [base.name, "qlora"]


@pytest.mark.slow
def test_uvicorn_by_itself_takes_all_but_what_follows_the_two_hyphens(outputs):
    (outputs / ".env").write_text("MODEL_PATH=outputs/qlora\nADAPTER_PATH=outputs/qlora\nCOURSE_SERVE_API_KEY=k\n")
    program = ("uvicorn", *shlex.split(PLAIN)[1:])
    with served(program=program, cwd=outputs) as running:
        assert httpx.post(f"{running.url}/generate", json=REQUEST).status_code == 401
        headers = {"Authorization": "Bearer k"}
        assert httpx.post(f"{running.url}/generate", json=REQUEST, headers=headers).json()["model"] == "qlora"
    refused = subprocess.run(
        [sys.executable, "-m", *shlex.split(SEED)], capture_output=True, text=True, cwd=outputs, check=False
    )
    assert refused.returncode == 2
    assert "unexpected extra arguments (--model_path outputs/qlora" in refused.stderr


def test_uvicorn_says_what_is_wrong_in_one_sentence(outputs):
    (outputs / ".env").write_text("COURSE_SERVE_MODLE=x\n")
    program = [sys.executable, "-m", *shlex.split(PLAIN)]
    run = subprocess.run(program, capture_output=True, text=True, cwd=outputs, check=False)
    assert run.returncode == 1
    assert "course: There is no setting COURSE_SERVE_MODLE. Did you mean COURSE_SERVE_MODEL?" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_model_that_cannot_be_batched(models, tmp_path):
    with served("--model", models / "gpt2") as running:
        assert "is of type gpt2, so requests are answered one after another" in running.output
        answer = httpx.post(f"{running.url}/generate", json={"prompt": "The keeper", "max_new_tokens": 4})
        assert answer.json()["model"] == "gpt2"


# --- settings ---


def test_options_win_over_the_environment_and_the_environment_over_defaults(started, monkeypatch):
    monkeypatch.setenv("COURSE_SERVE_PORT", "9001")
    monkeypatch.setenv("COURSE_SERVE_MAX_BATCH", "3")
    monkeypatch.setenv("COURSE_SERVE_ALLOWED_HOST", "a.example, b.example")
    monkeypatch.setenv("COURSE_SERVE_TIME_LIMIT", "2.5")
    monkeypatch.setenv("COURSE_SERVE_MODEL", "")
    assert course("serve", "--port", 9002, "--weights", "int8") == 0
    ((settings, _),) = started
    assert (settings.port, settings.max_batch, settings.time_limit, settings.weights) == (9002, 3, 2.5, "int8")
    assert settings.allowed_host == ("a.example", "b.example")
    assert settings.model is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_machines_need_a_key(host, capsys, started):
    assert course("serve", "--host", host) == 2
    assert "there is no API key. Set COURSE_SERVE_API_KEY" in capsys.readouterr().err
    assert course("serve", "--host", host, "--api-key", "k") == 0
    assert course("serve", "--host", host, "--without-key") == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_does_not(host, started):
    assert course("serve", "--host", host) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "a=nowhere"], "There is no adapter nowhere"),
        (["other.module:app"], "course serve has one application"),
        (["--env-file", "nowhere.env"], "There is no file nowhere.env"),
        (["--max-queue", "0"], "--max-queue 0"),
        (["--backend", "vllm"], "needs vLLM, which is not installed"),
    ],
)
def test_what_is_refused(words, said, capsys, started, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert course("serve", *words) == 2
    assert said in capsys.readouterr().err
    assert started == []


def test_a_port_that_is_taken_shows_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("course_lib.serve.running.build", lambda _: pytest.fail("the model was loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert course("serve", "--port", port) == 2
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in capsys.readouterr().err


def test_an_adapter_for_another_base_is_noted(base, adapter, models, capsys):
    assert course("serve", "--port", 0, "--model", models / "gpt2", "--adapter", adapter("one")) == 2
    printed = capsys.readouterr().err
    assert f"note: one was trained on {base}, and is put on {models / 'gpt2'} here" in printed
