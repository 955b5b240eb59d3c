"""Small models and runs for the commands' tests. Conftests import the fixtures from here.

Models are made once a session; tests that change files get copies.
"""

import shutil

import pytest
import torch

from course_lib.cli import main

TEXT = "\n\n".join(f"Line {n}: the keeper lit lamp number {n % 7} and noted the wind." for n in range(60))
SPECIAL = ["<pad>", "<bos>", "<eos>"]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 300 tokens, trained on `TEXT`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory, tokenizer):
    """A Llama and a GPT-2 of 2 layers in folders, with that tokenizer. Not to be changed: see `models`."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ids = IDS | {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=128, **ids))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=4, **ids))
    folder = tmp_path_factory.mktemp("models")
    for name, model in {"llama": llama, "gpt2": gpt2}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def models(tmp_path, model_folders):
    """A folder of the test's own with those models in it."""
    shutil.copytree(model_folders, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(TEXT)
    return path


def course(*arguments):
    """The `course` command in this process: its exit status."""
    return main([str(argument) for argument in arguments])


def train(*arguments):
    return course("train", "--seq-len", 32, "--threads", 1, *arguments)


def run(models, text, *arguments, model="llama", output="run"):
    return train("--model", models / model, "--dataset", text, "--output", models / output, *arguments)


# --- a base whose weights matter, and adapters on it ---


@pytest.fixture(scope="session")
def letters():
    """A tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def base(tmp_path_factory, letters):
    """The folder of a Llama with large random weights. Not to be changed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = IDS | {"vocab_size": len(letters)}
    folder = tmp_path_factory.mktemp("base") / "base"
    LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=128, initializer_range=0.2, **ids)).save_pretrained(
        folder
    )
    letters.save_pretrained(folder)
    return folder


def loaded(folder):
    """The model in a folder, by transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def save_random_adapter(base, folder, size=0.3, base_name=None, **options):
    """Save a LoRA adapter for the model in `base` with random B of that size."""
    from course_lib.adapters import inject_lora, lora_layers, save_adapter

    model = loaded(base)
    inject_lora(model, ["q_proj", "v_proj"], rank=4, **options)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.B, std=size)
    save_adapter(model, folder, str(base_name or base))
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    """adapter(name, size) saves a LoRA adapter with random B of that size in the folder runs."""

    def make(name, size=0.3, base_name=base, **options):
        return save_random_adapter(base, tmp_path / "runs" / name, size, base_name, **options)

    return make
