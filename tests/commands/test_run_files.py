"""What the commands leave behind: readable by others, of no one machine, and the model that was saved last."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import TEXT, course, run
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

SHORT = ["--steps", 2, "--seq-len", 32, "--checkpoint-every", 1]
COMMANDS = [
    ["train", "--output", "lora", *SHORT],
    ["train", "--mode", "full", "--output", "full", *SHORT],
    ["train", "--model", "tiny-gpt", "--tokenizer", "gpt2", "--output", "scratch", *SHORT],
    ["sft", "--dataset", "records.jsonl", "--output", "sft", *SHORT, "--seq-len", 96],
    ["dpo", "--dataset", "pairs.jsonl", "--reference", "cached", "--output", "dpo", *SHORT, "--seq-len", 96],
    ["adapters", "export", "lora/checkpoints/step_000001", "--output", "exported"],
    ["merge", "--adapter", "lora", "--output", "merged"],
    ["prepare", "--input", "notes.txt", "--output", "shards"],
    *(
        [
            "align",
            "run",
            recipe,
            "--data",
            "notes.txt",
            "--steps",
            2,
            "--seq-len",
            32,
            "--output",
            f"{recipe}{side}",
            *more,
        ]
        for recipe in ("smollm2-lora", "gpt2-full")
        for side, more in (("", []), ("-ours", ["--ours", "--dump-gradients", 1]))
    ),
]


@pytest.fixture
def left(workspace):
    """The current folder after all commands that write, under umask 022."""
    (workspace / "notes.txt").write_text(TEXT)
    pairs = [{"prompt": f"Lamp {n}?", "chosen": "Lit.", "rejected": "Out."} for n in range(6)]
    answers = [{"prompt": each["prompt"], "response": each["chosen"]} for each in pairs]
    for name, rows in {"pairs": pairs, "records": answers}.items():
        (workspace / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = os.umask(0o022)
    try:
        for command in COMMANDS:
            assert course(*command) == 0, command
    finally:
        os.umask(before)
    return [workspace / command[command.index("--output") + 1] for command in COMMANDS]


def test_files_are_open_to_others_and_name_no_folder_of_this_machine(left, hub_cache):
    """Weights have the permissions of the files beside them; an adapter names its base as the user did."""
    paths = [path for folder in left for path in (folder, *folder.rglob("*"))]
    assert len(paths) > 80
    wrong = {str(path): oct(path.stat().st_mode & 0o777) for path in paths}
    expected = {str(path): "0o755" if path.is_dir() else "0o644" for path in paths}
    assert wrong == expected
    texts = [path for path in paths if path.suffix in (".json", ".jsonl", ".txt")]
    assert [path for path in texts if str(hub_cache) in path.read_text(encoding="utf-8")] == []
    bases = {}
    for path in paths:
        if path.name == "adapter_config.json":
            folder = path.parent.relative_to(left[0].parent)
            bases[str(folder)] = json.loads(path.read_text())["base_model_name_or_path"]
    assert bases.pop("scratch") == "scratch/base"
    assert bases.keys() >= {"lora", "exported", "smollm2-lora", "smollm2-lora/initial", "smollm2-lora-ours"}
    assert set(bases.values()) == {"smollm2-135m-instruct"}


# --- a model over another one in the same folder ---


@pytest.fixture
def sharded(monkeypatch):
    """sharded(True): transformers saves models in shards, as it does with large ones."""
    save = PreTrainedModel.save_pretrained

    def choose(on):
        def saved(self, folder, **options):
            return save(self, folder, **options | ({"max_shard_size": "20KB"} if on else {}))

        monkeypatch.setattr(PreTrainedModel, "save_pretrained", saved)

    return choose


@pytest.mark.parametrize("first", [False, True], ids=["single first", "shards first"])
@pytest.mark.parametrize("second", [False, True], ids=["single second", "shards second"])
@pytest.mark.parametrize("order", [("gpt2", "llama"), ("llama", "gpt2")], ids=["tied first", "untied first"])
def test_the_model_of_the_last_run_is_the_one_that_loads(models, text, sharded, order, first, second):
    """transformers leaves a single file where it saves shards, and then loads that older model."""
    results = []
    for model, in_shards in zip(order, (first, second), strict=True):
        sharded(in_shards)
        assert run(models, text, "--mode", "full", "--steps", 1, "--lr", 1e-2, "--force", model=model) == 0
        assert (models / "run" / "model.safetensors").exists() is not in_shards
        assert (models / "run" / "model.safetensors.index.json").exists() is in_shards
        results.append(_weights(models / "run"))
    loaded = AutoModelForCausalLM.from_pretrained(models / "run")
    assert loaded.config.model_type == order[1]
    newest = max((models / "run" / "checkpoints").glob("step_*"))
    trained = load_file(newest / "weights.safetensors")
    assert all(torch.equal(trained[name], parameter) for name, parameter in loaded.named_parameters())
    assert results[0].keys() != results[1].keys()


def _weights(folder):
    return {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}


def test_nothing_of_an_older_model_stays(models, text):
    """A chat template and end tokens of the model before would be used with the new one."""
    assert run(models, text, "--mode", "full", "--steps", 1) == 0
    folder = models / "run"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    (folder / "mine.txt").write_text("mine")
    assert run(models, text, "--mode", "full", "--steps", 1, "--force", model="gpt2") == 0
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == 2
    assert run(models, text, "--steps", 1, "--force") == 0
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *("run.json", "log.jsonl", "summary.json", "loss.png", "checkpoints", "mine.txt"),
        *("adapter_model.safetensors", "adapter_config.json"),
    }
