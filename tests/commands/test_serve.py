"""`course serve`: settings from options and the environment, the old program's command line, and what is refused."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from served import served
from tiny_runs import course, loaded

from course_lib.adapters import apply_lora_to_model, save_adapter, save_lora_weights
from course_lib.errors import CourseError
from course_lib.quantization import quantize_model
from course_lib.serve.settings import ServeSettings, as_environment, from_environment, named_adapters

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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_machines_need_a_key(host, capsys, started):
    assert course("serve", "--host", host) == 2
    assert "there is no API key. Set COURSE_SERVE_API_KEY" in capsys.readouterr().err
    assert course("serve", "--host", host, "--api-key", "k") == 0
    assert course("serve", "--host", host, "--without-key") == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_does_not(host, started):
    assert course("serve", "--host", host) == 0


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


# --- vLLM ---

# Of vLLM 0.33.0's sources: make_arg_parser, FrontendArgs, EngineArgs.add_cli_args
VLLM_OPTIONS = {
    "--host", "--port", "--served-model-name", "--dtype", "--max-num-seqs", "--max-num-queued-reqs", "--block-size",
    "--num-gpu-blocks-override", "--enable-lora", "--max-loras", "--max-lora-rank", "--lora-modules",
}  # fmt: skip


def test_vllm_takes_over_with_its_own_words(base, tmp_path):
    """A stand-in for the program prints what it was given."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ.get('VLLM_API_KEY')]))\n"
    )
    program.chmod(0o755)
    one = save_adapter(apply_lora_to_model(quantize_model(loaded(base)), rank=8), tmp_path / "one", str(base)).parent
    # A file that vLLM cannot read: it is given a folder.
    two = save_lora_weights(apply_lora_to_model(loaded(base), rank=4), tmp_path / "two.pt")
    words = ["--backend", "vllm", "--adapter", f"one={one}", f"two={two}", "--api-key", "k"]
    words += ["--host", "0.0.0.0", "--weights", "bfloat16", "--max-batch", "64", "--max-body-bytes", "5"]
    from served import ROOT

    run = subprocess.run(
        [sys.executable, "-m", "course_lib.cli", "serve", *map(str, words)],
        env={"PATH": str(program.parent), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "vLLM has no setting like max_body_bytes" in run.stderr
    assert "note: one was trained on a base quantised as nf4, blocks of 64" in run.stderr
    assert "note: two" not in run.stderr
    given, key = json.loads(run.stdout.splitlines()[-1])
    assert key == "k"
    assert "k" not in given
    assert {word for word in given if word.startswith("--")} <= VLLM_OPTIONS
    assert given[:6] == ["serve", str(base), "--host", "0.0.0.0", "--port", "8000"]
    pairs = dict(zip(given, given[1:], strict=False))
    assert (pairs["--dtype"], pairs["--max-num-seqs"], pairs["--max-num-queued-reqs"]) == ("bfloat16", "64", "128")
    assert (pairs["--max-loras"], pairs["--max-lora-rank"]) == ("2", "8")
    modules = [json.loads(word) for word in given[given.index("--lora-modules") + 1 :]]
    assert [each["name"] for each in modules] == ["one", "two"]
    for each in modules:  # they are still there when vLLM starts
        assert Path(each["path"], "adapter_config.json").is_file()
    assert "--block-size" not in given  # vLLM's own, made for a GPU


def test_weights_of_ours_are_not_vllms(base):
    from course_lib.serve.vllm import vllm_command

    with pytest.raises(CourseError, match="--weights int8 is a format of the course's own engine"):
        vllm_command(ServeSettings(weights="int8"), str(base), {})


def test_a_gpu_answers_one_after_another(base, letters, monkeypatch, capsys):
    """The engine that batches is for the CPU; `choose_device` stands in for a machine with a GPU."""
    from course_lib.inference.server.engine import BatchingEngine
    from course_lib.inference.server.plain import PlainEngine
    from course_lib.models.pretrained import load
    from course_lib.serve import running
    from course_lib.serve.loading import Loaded

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
