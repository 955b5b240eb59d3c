"""Small runs of `course train`: a text, a tokenizer, two models in folders. Conftests import the fixtures from here."""

import pytest
import torch

from course_lib.cli import main

TEXT = "\n\n".join(f"Line {n}: the keeper lit lamp number {n % 7} and noted the wind." for n in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def models(tmp_path, tokenizer):
    """A Llama and a GPT-2 of 2 layers in folders, with that tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=128, **ids))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=4, **ids))
    for name, model in {"llama": llama, "gpt2": gpt2}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(TEXT)
    return path


def train(*arguments):
    return main(["train", "--seq-len", "32", "--threads", "1", *map(str, arguments)])


def run(models, text, *arguments, model="llama", output="run"):
    return train("--model", models / model, "--dataset", text, "--output", models / output, *arguments)
