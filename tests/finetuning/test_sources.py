"""What a run trains on, and how steps are made of it."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import TEXT

from course_lib.cli import main
from course_lib.data import pad
from course_lib.finetuning.plan import make_plan
from course_lib.finetuning.settings import complete
from course_lib.finetuning.sources import MicroBatches, Source, read_source
from course_lib.training import Trainer, TrainingConfig


def test_token_aware_steps_are_what_one_large_batch_would_be(models, text):
    """A step over micro-batches of unequal lengths is the step on all of its rows at once."""
    tokenizer_path = models / "llama"
    settings = complete({"model": str(tokenizer_path), "dataset": str(text), "tokens_per_step": 60, "batch_size": 2})
    assert settings.checkpoint_every == 1
    plan = make_plan(replace(settings, seq_len=24))
    sizes = [plan.batches.tokens(i) for i in range(len(plan.batches))]
    assert sizes == [int(batch["attention_mask"].sum()) for batch in plan.batches]
    assert len(set(sizes)) > 1, "documents of one length would test nothing"

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tokenizer_path)
    micro, whole = copy.deepcopy(model), copy.deepcopy(model)
    trainer = Trainer(micro, TrainingConfig(lr=1e-2, tokens_per_step=60), log_every=0)
    parts = trainer.plan_steps(plan.batches)
    assert len(parts) == plan.steps
    first = [plan.batches[i] for i in parts[0]]
    rows = [
        {"input_ids": ids[mask == 1].tolist(), "labels": ids[mask == 1].tolist()}
        for batch in first
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    record = trainer.train(first)[0]
    single = Trainer(whole, TrainingConfig(lr=1e-2), log_every=0).train([pad(rows, 0)])[0]
    assert record.loss == pytest.approx(single.loss, rel=1e-5)
    assert record.norm == pytest.approx(single.norm, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 11])
def test_token_aware_steps_stop_where_asked(models, text, steps):
    given = {"model": str(models / "llama"), "dataset": str(text), "tokens_per_step": 60, "steps": steps}
    plan = make_plan(replace(complete(given), seq_len=24))
    assert plan.steps == steps


def test_micro_batches_visit_every_row_each_pass_and_can_be_asked_in_any_order(tokenizer):
    blocks = np.arange(22).reshape(11, 2)
    batches = MicroBatches(Source("", blocks, blocks, 22), 4, 6, seed=3)
    in_order = [batches[i].copy() for i in range(6)]
    assert [len(batch) for batch in in_order] == [4, 4, 3, 4, 4, 3]
    for turn in (in_order[:3], in_order[3:]):
        assert sorted(np.concatenate(turn)[:, 0]) == sorted(blocks[:, 0])
    assert any((a != b).any() for a, b in zip(in_order[:2], in_order[3:5], strict=True))  # another order
    for number in (5, 0, 3):
        assert np.array_equal(batches[number], in_order[number])


def test_sources(tmp_path, tokenizer, text):
    """A text, WikiText files, shards and records: what is trained on and what is held out do not overlap."""
    count = len(tokenizer(TEXT)["input_ids"])
    plain = read_source(str(text), tokenizer, 16)
    assert 0.85 * count < plain.tokens <= 0.9 * count
    assert 0.05 * count < sum(len(row["input_ids"]) for row in plain.held_out) < 0.15 * count  # the tail included
    assert len(read_source(str(text), tokenizer, 16, max_train=3, max_eval=2).train) == 3

    assert (
        main(
            [
                "prepare",
                "--input",
                str(text),
                "--output",
                str(tmp_path / "s"),
                "--tokenizer",
                _saved(tokenizer, tmp_path),
            ]
        )
        == 0
    )
    shards = read_source(str(tmp_path / "s"), tokenizer, 16)
    ids = np.concatenate([shards.train[i] for i in range(len(shards.train))])
    assert np.array_equal(ids, tokenizer(TEXT)["input_ids"][: len(ids)])

    wiki = tmp_path / "wiki"
    wiki.mkdir()
    for split in ("train", "valid"):
        (wiki / f"wiki.{split}.raw").write_text("".join(f" = {split} {n} = \n words of it \n" for n in range(8)))
    assert tokenizer.decode(read_source(str(wiki), tokenizer, 8).train[0]).startswith(" = train 0")
    assert tokenizer.decode(read_source(str(wiki), tokenizer, 8).held_out[0]["input_ids"]).startswith(" = valid")

    records = tmp_path / "r.jsonl"
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"It is {n}."} for n in range(30)]
    records.write_text("\n".join(map(json.dumps, rows)))
    answered = read_source(str(records), tokenizer, 128)
    assert (len(answered.train), len(answered.held_out)) == (27, 3)
    labels = [label for label in answered.train[4]["labels"] if label != -100]
    assert tokenizer.decode(labels).strip().startswith("It is 4.")


def _saved(tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "tok")
    tokenizer.save_pretrained(tmp_path / "tok")
    return str(tmp_path / "tok")
