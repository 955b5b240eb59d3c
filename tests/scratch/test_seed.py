"""The fine-tuning exercise's own test cases, as it states them, level by level."""

import numpy as np
import pytest

from course_lib.data import style_corpus
from course_lib.scratch import *  # noqa: F403 - the exercise's cases use the names bare
from course_lib.scratch import GPT, SGD, AdamW, Benchmark, DataCollator, FinetuneDataset, LoRAMerger, LoRAModel, Trainer


class TokenizerOf100:
    """A simple tokenizer of 100 ids, as the exercise allows: printable ASCII, everything else one id."""

    def encode(self, text):
        return [ord(c) - 32 if 32 <= ord(c) < 127 else 98 if c == "\n" else 99 for c in text]


tokenizer = TokenizerOf100()
DATA = [
    {"instruction": "Translate to French", "input": "Hello", "output": "Bonjour"},
    {"instruction": "Summarize", "input": "Long text here...", "output": "Short summary"},
]


def test_level_1():
    data = DATA
    # The exercise's 64 tokens are of its own BPE tokenizer; one that spells needs 128 for the same texts.
    dataset = FinetuneDataset(data, tokenizer, max_length=128)
    assert len(dataset) == 2

    item = dataset[0]
    assert "input_ids" in item
    assert "labels" in item
    assert len(item["input_ids"]) <= 128

    # Labels should have -100 for instruction tokens
    assert item["labels"][0] == -100  # instruction part is masked

    collator = DataCollator()
    batch = collator.collate([dataset[0], dataset[1]])
    assert batch["input_ids"].shape[0] == 2  # batch of 2


def test_level_1_with_bpe_as_written():
    template = "### Instruction:\n### Input:\n### Response:\n" * 20
    bpe = BPETokenizer.train(template + style_corpus() + " ".join(map(str, DATA)) * 3, 700)  # noqa: F405
    dataset = FinetuneDataset(DATA, bpe, max_length=64)
    assert len(dataset[0]["input_ids"]) <= 64
    assert dataset[0]["labels"][0] == -100
    assert DataCollator().collate([dataset[0], dataset[1]])["input_ids"].shape[0] == 2


def test_level_2(tmp_path):
    dataset = eval_dataset = FinetuneDataset(DATA, tokenizer, max_length=128)
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=128)
    optimizer = SGD(model.parameters(), lr=0.001)

    trainer = Trainer(model, optimizer, dataset, batch_size=2, epochs=5)
    losses = trainer.train()

    # Loss should decrease
    assert losses[-1] < losses[0]

    # Save and reload
    trainer.save_checkpoint(tmp_path / "checkpoint.pt")
    trainer.load_checkpoint(tmp_path / "checkpoint.pt")

    # Eval
    eval_loss = trainer.evaluate(eval_dataset)
    assert eval_loss > 0


def test_level_3():
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64)
    total_params = sum(p.size for p in model.parameters())

    lora_model = LoRAModel(model, target_modules=["q_proj", "v_proj"], rank=4)
    lora_model.inject_lora()

    trainable = len(lora_model.lora_parameters())
    pct = lora_model.trainable_percentage()
    assert pct < 10.0  # less than 10% of params are trainable
    assert trainable == 8
    assert total_params > 0

    # Train with LoRA: only LoRA params should change
    before = [p.data.copy() for p in lora_model.base_parameters()]
    adapter = lora_model.adapter()
    optimizer = SGD(lora_model.lora_parameters(), lr=0.01)
    ids = np.random.default_rng(0).integers(0, 100, (2, 20))
    for _ in range(2):
        optimizer.zero_grad()
        lora_model.loss(ids, ids).backward()
        optimizer.step()
    assert all(np.array_equal(p.data, old) for p, old in zip(lora_model.base_parameters(), before, strict=True))
    assert any(not np.array_equal(adapter[name], value) for name, value in lora_model.adapter().items())


CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana"}


def tasks(verb):
    """copy: repeat a word, whatever its case; shout: write it in capitals."""
    if verb == "shout":
        return [{"instruction": verb, "input": word, "output": word.upper()} for word in CAPITALS.values()]
    return [{"instruction": verb, "input": w, "output": w} for word in CAPITALS.values() for w in (word, word.upper())]


@pytest.mark.slow
def test_level_4():
    """A base that learnt to copy is taught to shout: by full fine-tuning and by LoRA on the same data."""
    base_data, dataset = (FinetuneDataset(tasks(verb), tokenizer, 64) for verb in ("copy", "shout"))
    eval_data = dataset

    def a_base():
        model = GPT(100, 64, 4, 2, 64, seed=0)
        Trainer(model, AdamW(model.parameters(), 3e-3), base_data, 6, 60, say=None).train()
        return model

    def train_full_finetune(model, data):
        Trainer(model, AdamW(model.parameters(), 3e-3), data, 6, 60, say=None).train()
        return model

    def train_lora(model, data, rank):
        adapted = LoRAModel(model, ["q_proj", "k_proj", "v_proj", "out_proj", "up_proj", "down_proj"], rank=rank)
        adapted.inject_lora()
        Trainer(adapted, AdamW(adapted.lora_parameters(), 1e-2), data, 6, 60, say=None).train()
        return adapted

    base_model = a_base()
    model_full = train_full_finetune(a_base(), dataset)
    model_lora = train_lora(a_base(), dataset, rank=4)

    # Merge LoRA
    merger = LoRAMerger()
    merger.merge(model_lora)

    # Compare
    bench = Benchmark(eval_dataset=eval_data)
    results = bench.compare({"base": base_model, "full_finetune": model_full, "lora_rank4": model_lora})

    # LoRA should be close to full fine-tuning in quality
    assert results["lora_rank4"]["loss"] < results["base"]["loss"]
    # (its loss gain within 10 % of full fine-tuning's)
    gain_full = results["base"]["loss"] - results["full_finetune"]["loss"]
    assert results["base"]["loss"] - results["lora_rank4"]["loss"] > 0.9 * gain_full
    # But with way fewer trained parameters
    assert results["lora_rank4"]["trainable_params"] < results["full_finetune"]["trainable_params"] * 0.1
