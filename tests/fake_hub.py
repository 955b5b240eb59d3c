"""A hub's cache and corpora that need no network: tiny models under the names of large ones."""

import shutil

import pytest
import torch
from tiny_runs import IDS, TEXT

from course_lib.models.pretrained import DEFAULT, PACKAGED

STORIES = [f"Once upon a time there was a lamp number {n % 7}. The keeper lit it and was happy." for n in range(48)]
WIKITEXT = "".join(f" = Lamp {n} = \n\n The keeper lit lamp number {n % 7} and noted the wind . \n" for n in range(48))


def tiny_models(tokenizer):
    """A GPT-2 whose widths divide by 256, a Gemma 3 and a Llama of one or two layers, by the kind of model."""
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    ids = IDS | {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    shape = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    gemma = {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(n_positions=256, n_embd=256, n_layer=1, n_head=4, **ids)),
        "gemma": Gemma3ForCausalLM(Gemma3TextConfig(**shape, **gemma, **layers, max_position_embeddings=256, **ids)),
        "llama": LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=256, **ids)),
    }


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory, tokenizer):
    """The folder of a hub's cache with gpt2, distilgpt2 and, as if they were not packaged, the packaged models."""
    cache = tmp_path_factory.mktemp("hub")
    models = tiny_models(tokenizer)
    for name, kind in {"gpt2": "gpt2", "distilgpt2": "gpt2", "gemma-3-270m": "gemma", DEFAULT: "llama"}.items():
        folder = cache / f"models--{name}" / "snapshots" / "0123456789"
        models[kind].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder.parents[1] / "refs").mkdir()
        (folder.parents[1] / "refs" / "main").write_text("0123456789")
    return cache


@pytest.fixture
def hub(hub_cache, monkeypatch):
    """hub(name): where a model of that name is in the cache. Inside the test every name is looked up there, and the
    named corpora are `STORIES` and `WIKITEXT`."""
    import huggingface_hub

    from course_lib.data import corpora

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub_cache))
    for name in list(PACKAGED):
        monkeypatch.delitem(PACKAGED, name)

    def load_hub(name, split, config=None):
        assert config in (None, "wikitext-2-raw-v1")
        texts = STORIES if name == "roneneldan/TinyStories" else WIKITEXT.splitlines(keepends=True)
        return [{"text": text} for text in (texts if split == "train" else texts[:9])]

    monkeypatch.setattr(corpora, "load_hub", load_hub)
    return lambda name: hub_cache / f"models--{name}" / "snapshots" / "0123456789"


@pytest.fixture
def workspace(hub, tmp_path, monkeypatch):
    """A current folder with what the seeds' commands read: texts, WikiText, models in folders, weights in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "wikitext2" / "wikitext-2-raw").mkdir(parents=True)
    for part in ("train", "valid", "test"):
        (tmp_path / "data" / "wikitext2" / "wikitext-2-raw" / f"wiki.{part}.raw").write_text(WIKITEXT)
    for name in ("sampleBrainRot", "my_text"):
        (tmp_path / "data" / f"{name}.txt").write_text(TEXT)
    (tmp_path / "gpt2_lora_finetune" / "pretrained").mkdir(parents=True)
    for name, place in {
        "gpt2": "gpt2_lora_finetune/pretrained/gpt2",
        "distilgpt2": "gpt2_lora_finetune/pretrained/gpt2-medium",
        "gemma-3-270m": "gemma-3-1b",
    }.items():
        (tmp_path / place).symlink_to(hub(name))
    shutil.copytree(hub("gemma-3-270m"), tmp_path / "gemma-3-270m")
    return tmp_path
