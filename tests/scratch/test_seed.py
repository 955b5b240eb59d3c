"""The fine-tuning exercise's own test cases, verbatim: each stands between its two lines, with what it leaves open (a
tokenizer, the data sets, the training helpers) supplied above it and what it only says in words asserted below it."""

import copy

import numpy as np
import pytest

from course_lib.data import style_corpus
from course_lib.scratch import *  # noqa: F403 - the exercise's cases use the names bare

# ruff: noqa: F405

TEMPLATE = "### Instruction:\n### Input:\n### Response:\n"


class Letters:
    """A simple tokenizer, as the exercise allows: an id for each printable ASCII character, one for everything else."""

    def encode(self, text):
        return [ord(c) - 32 if 32 <= ord(c) < 127 else 98 if c == "\n" else 99 for c in text]


class Words:
    """Another: an id for each word and sign, in the order in which they first occur, at most 100."""

    def __init__(self):
        self.ids = {}

    def encode(self, text):
        return [self.ids.setdefault(word, len(self.ids) % 100) for word in text.split()]


class BPE:
    """The course's own, and the ids past 100 folded onto the others for a model with so small a vocabulary."""

    def __init__(self):
        self.bpe = BPETokenizer.train(TEMPLATE * 20 + style_corpus(), 600)

    def encode(self, text):
        return [i % 100 for i in self.bpe.encode(text)]


@pytest.fixture(scope="module", params=[Letters, Words, BPE])
def tokenizer(request):
    return request.param()


@pytest.fixture
def dataset(tokenizer):
    return FinetuneDataset(
        [
            {"instruction": "Translate to French", "input": "Hello", "output": "Bonjour"},
            {"instruction": "Summarize", "input": "Long text here...", "output": "Short summary"},
        ],
        tokenizer,
        max_length=64,
    )


# Spelt in letters, the longer prompt takes 75 of the 64 ids: its start is left out, with this warning.
pytestmark = pytest.mark.filterwarnings("ignore:max_length 64 leaves no room:UserWarning")


def test_level_1(tokenizer):
    # --- the exercise ---
    data = [
        {"instruction": "Translate to French", "input": "Hello", "output": "Bonjour"},
        {"instruction": "Summarize", "input": "Long text here...", "output": "Short summary"},
    ]

    dataset = FinetuneDataset(data, tokenizer, max_length=64)
    assert len(dataset) == 2

    item = dataset[0]
    assert "input_ids" in item
    assert "labels" in item
    assert len(item["input_ids"]) <= 64

    # Labels should have -100 for instruction tokens
    assert item["labels"][0] == -100  # instruction part is masked

    collator = DataCollator()
    batch = collator.collate([dataset[0], dataset[1]])
    assert batch["input_ids"].shape[0] == 2  # batch of 2
    # --- and what it says in words ---
    for example, record in zip(dataset.examples, data, strict=True):
        assert [i for i in example["labels"] if i != -100] == tokenizer.encode(record["output"])


def test_level_2(dataset):
    eval_dataset = dataset
    # --- the exercise ---
    # Use the small transformer from Project 13
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64)
    optimizer = SGD(model.parameters(), lr=0.001)

    trainer = Trainer(model, optimizer, dataset, batch_size=2, epochs=5)
    losses = trainer.train()

    # Loss should decrease
    assert losses[-1] < losses[0]

    # Save and reload
    trainer.save_checkpoint("/tmp/checkpoint.pt")
    trainer.load_checkpoint("/tmp/checkpoint.pt")

    # Eval
    eval_loss = trainer.evaluate(eval_dataset)
    assert eval_loss > 0
    # --- and what it says in words ---
    assert len(losses) == 5


def test_level_3():
    # --- the exercise ---
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64)
    total_params = sum(p.size for p in model.parameters())

    lora_model = LoRAModel(model, target_modules=["q_proj", "v_proj"], rank=4)
    lora_model.inject_lora()

    trainable = len(lora_model.lora_parameters())
    pct = lora_model.trainable_percentage()
    assert pct < 10.0  # less than 10% of params are trainable

    # Train with LoRA — only LoRA params should change
    optimizer = SGD(lora_model.lora_parameters(), lr=0.01)
    # ... training loop ...
    base, adapter = [p.data.copy() for p in lora_model.base_parameters()], lora_model.adapter()
    ids = np.random.default_rng(0).integers(0, 100, (2, 20))
    for _ in range(2):
        optimizer.zero_grad()
        lora_model.loss(ids, ids).backward()
        optimizer.step()

    # Base weights should not have changed
    assert all(np.array_equal(p.data, old) for p, old in zip(lora_model.base_parameters(), base, strict=True))
    # LoRA weights should have changed
    assert all(not np.array_equal(adapter[name], value) for name, value in lora_model.adapter().items())
    # --- and what it says in words ---
    assert trainable == 2 * 4, "A and B of two layers in two blocks"
    trained = 4 * 4 * (32 + 32)  # four layers, rank 4, A and B
    assert pct == pytest.approx(100 * trained / (total_params + trained))


CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana"}


def tasks(verb):
    """copy: repeat a word, whatever its case; shout: write it in capitals."""
    if verb == "shout":
        return [{"instruction": verb, "input": word, "output": word.upper()} for word in CAPITALS.values()]
    return [{"instruction": verb, "input": w, "output": w} for word in CAPITALS.values() for w in (word, word.upper())]


def copying_base():
    model = GPT(100, 64, 4, 2, 64)
    data = FinetuneDataset(tasks("copy"), Letters(), 64)
    Trainer(model, AdamW(model.parameters(), 3e-3), data, 6, 60, say=None).train()
    return model


def train_full_finetune(base_model, dataset):
    model = copy.deepcopy(base_model)
    Trainer(model, AdamW(model.parameters(), 3e-3), dataset, 6, 60, say=None).train()
    return model


def train_lora(base_model, dataset, rank):
    layers = ["q_proj", "k_proj", "v_proj", "out_proj", "up_proj", "down_proj"]
    model = LoRAModel(copy.deepcopy(base_model), layers, rank=rank)
    model.inject_lora()
    Trainer(model, AdamW(model.lora_parameters(), 1e-2), dataset, 6, 60, say=None).train()
    return model


@pytest.mark.slow
def test_level_4():
    """A base that learnt to copy is taught to shout: by full fine-tuning and by LoRA on the same data."""
    base_model = copying_base()
    dataset = eval_data = FinetuneDataset(tasks("shout"), Letters(), 64)
    # --- the exercise ---
    # Train both approaches on same data
    model_full = train_full_finetune(base_model, dataset)
    model_lora = train_lora(base_model, dataset, rank=4)

    # Merge LoRA
    merger = LoRAMerger()
    merger.merge(model_lora)

    # Compare
    bench = Benchmark(eval_dataset=eval_data)
    results = bench.compare({
        "base": base_model,
        "full_finetune": model_full,
        "lora_rank4": model_lora,
    })  # fmt: skip

    # LoRA should be close to full fine-tuning in quality
    assert results["lora_rank4"]["loss"] < results["base"]["loss"]
    # But with way fewer trained parameters
    assert results["lora_rank4"]["trainable_params"] < results["full_finetune"]["trainable_params"] * 0.1
    # --- and what it says in words ---
    gain_full = results["base"]["loss"] - results["full_finetune"]["loss"]
    assert results["base"]["loss"] - results["lora_rank4"]["loss"] > 0.9 * gain_full
