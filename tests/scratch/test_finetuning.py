"""Template, labels, Trainer, merging, benchmark: round trips, resumed runs, and the mistakes."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.scratch import (
    GPT,
    AdamW,
    Benchmark,
    BPETokenizer,
    DataCollator,
    FinetuneDataset,
    InstructionFormatter,
    LoRAMerger,
    LoRAModel,
    Trainer,
    measured,
)

BYTES = BPETokenizer()  # no merges: a byte a token
LINES = st.lists(
    st.sampled_from(["### Input:", "### Response:", "### Instruction:", "\\### Input:", "", "text", "\\", "### Other:"])
    | st.text(max_size=8)
).map("\n".join)


@settings(max_examples=300)
@given(LINES, LINES, LINES)
def test_parse_inverts_format_for_any_text(instruction, given_, output):
    formatter = InstructionFormatter()
    formatted = formatter.format(instruction, given_, output)
    assert formatter.parse(formatted) == {"instruction": instruction, "input": given_, "output": output}


def test_the_template_is_the_exercises():
    text = InstructionFormatter().format("Translate to French", "Hello", "Bonjour")
    assert text == "### Instruction:\nTranslate to French\n### Input:\nHello\n### Response:\nBonjour"
    assert "### Input" not in InstructionFormatter().format("Say hello", "", "Hello")
    with pytest.raises(ValueError, match="does not follow the template"):
        InstructionFormatter().parse("Hello")


def record(output="yes", given_="", instruction="Answer"):
    return {"instruction": instruction, "input": given_, "output": output}


def test_labels_are_the_response_and_only_that():
    example = FinetuneDataset([record("Bonjour")], BYTES, 128)[0]
    labels = np.array(example["labels"])
    assert BYTES.decode([i for i in labels if i != -100]) == "Bonjour"
    assert (labels[:-7] == -100).all()
    assert BYTES.decode(example["input_ids"]) == InstructionFormatter().format("Answer", "", "Bonjour")


def test_truncation_keeps_a_part_of_every_response():
    prompt = len(BYTES.encode(InstructionFormatter().prompt("Answer")))
    cut = FinetuneDataset([record("a long answer")], BYTES, prompt + 3)[0]
    assert len(cut["input_ids"]) == len(cut["labels"]) == prompt + 3
    assert [i for i in cut["labels"] if i != -100] == list(b"a l")


@pytest.mark.parametrize(("output", "kept"), [("yes", "yes"), ("y" * 50, "y" * 19)])
def test_a_prompt_that_leaves_no_room_loses_its_start_with_a_warning(output, kept):
    prompt = InstructionFormatter().prompt("Answer")
    with pytest.warns(UserWarning, match=f"max_length {len(prompt)} .* of 1 of 2 records .* record 1"):
        data = FinetuneDataset([record(instruction="A"), record(output)], BYTES, len(prompt))
    example = data[1]
    assert len(example["input_ids"]) == len(example["labels"]) == len(prompt) == 38
    assert BYTES.decode(example["input_ids"]) == prompt[len(kept) :] + kept
    assert BYTES.decode([i for i in example["labels"] if i != -100]) == kept


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: FinetuneDataset([], BYTES), "empty"),
        (lambda: FinetuneDataset([{"instruction": "x"}], BYTES), "Record 0 has no output"),
        (lambda: FinetuneDataset([record(), record("")], BYTES), "Record 1 has an empty output"),
        (lambda: FinetuneDataset([record(given_=["x"])], BYTES), r"input of record 0 is \['x'\]: it must be a text"),
        (lambda: FinetuneDataset([record()], BYTES, 1), "max_length 1 has no room"),
        (lambda: FinetuneDataset(["x"], BYTES), "Record 0 is 'x': it must be a dictionary"),
        (lambda: DataCollator().collate([]), "empty batch"),
        (lambda: DataCollator().collate([{"input_ids": [1, 2], "labels": [1]}]), "2 ids and 1 labels"),
        (lambda: LoRAMerger().merge(small()), "no LoRA layers"),
        (lambda: Benchmark(), "eval_dataset"),
        (lambda: Trainer(None, AdamW(small().parameters()), data(), epochs=0), "epochs 0"),
    ],
)
def test_mistakes_are_explained(mistake, message):
    with pytest.raises(ValueError, match=message):
        mistake()


def test_collator_pads_ids_and_ignores_the_padding():
    batch = DataCollator(pad_token_id=7).collate(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]


def small(seed=0):
    return GPT(256, 16, 2, 1, 96, seed=seed)


def data(count=5):
    return FinetuneDataset([record("yes" * (i + 1), given_=str(i)) for i in range(count)], BYTES, 96)


def trainer(seed=0, model=None, lr=3e-3, **options):
    model = model or small(seed)
    return Trainer(model, AdamW(model.parameters(), lr), data(), 2, 3, say=None, **options)


def dropping(seed=0):
    return GPT(256, 16, 2, 1, 96, seed=seed, dropout=0.3)


def adapted(seed=0):
    model = LoRAModel(dropping(seed), ["q_proj", "up_proj"])
    model.inject_lora()
    return model


@pytest.mark.parametrize("make", [small, dropping, adapted])
@pytest.mark.parametrize("stop", range(9))
def test_resuming_gives_bit_identical_losses(tmp_path, stop, make):
    unbroken = trainer(model=make()).train()
    first = trainer(model=make())
    begun = first.train(max_steps=stop)
    first.save_checkpoint(tmp_path / "c.npz")
    # other weights, dropouts, order and learning rate, which the checkpoint replaces
    second = trainer(model=make(9), seed=9, lr=1.0)
    second.load_checkpoint(tmp_path / "c.npz")
    assert begun + second.train() == unbroken
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_a_model_that_draws_nothing_is_saved_and_resumed_too(tmp_path):
    def without_rng():
        model = small()
        del model.rng
        return trainer(model=model)

    unbroken, first, second = without_rng().train(), without_rng(), without_rng()
    begun = first.train(max_steps=3)
    first.save_checkpoint(tmp_path / "c.npz")
    second.load_checkpoint(tmp_path / "c.npz")
    assert begun + second.train() == unbroken


def test_another_models_checkpoint_is_refused_and_changes_nothing(tmp_path):
    trainer().save_checkpoint(tmp_path / "c.npz")
    other = trainer(model=GPT(256, 32, 2, 1, 96))
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(ValueError, match=r"another model or optimiser: .* there and"):
        other.load_checkpoint(tmp_path / "c.npz")
    assert all(np.array_equal(before[k], v) for k, v in other.model.state_dict().items())
    with pytest.raises(ValueError, match="saved with batch_size 2, and here it is 3"):
        Trainer(small(), other.optimizer.__class__(small().parameters()), data(), 3).load_checkpoint(tmp_path / "c.npz")


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint of this Trainer"):
        trainer().load_checkpoint(tmp_path / "c.npz")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(ValueError, match="not a checkpoint of this Trainer .*state"):
        trainer().load_checkpoint(tmp_path / "other.npz")


def test_a_line_a_step_and_evaluation_weighs_tokens(capsys):
    model = small()
    run = Trainer(model, AdamW(model.parameters(), 1e-3), data(4), 2, 1)
    losses = run.train()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(losses) == 2
    assert lines[0].startswith(f"step 0 | loss {losses[0]:.4f} | lr ")
    # examples of 3, 6, 9 and 12 trained tokens: the batch size must not matter
    assert run.evaluate(data(4)) == pytest.approx(Trainer(model, run.optimizer, data(4), 3, say=None).evaluate(data(4)))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: LoRAModel(model, ["q_proj"])])
def test_evaluation_drops_nothing_out_and_restores_the_mode(wrap):
    model = GPT(256, 16, 2, 1, 64, dropout=0.5)
    run = Trainer(wrap(model), AdamW(model.parameters(), 0.1), data(4), say=None)
    assert len({run.evaluate(data(4)) for _ in range(3)}) == 1
    assert model.training
    assert model.blocks[0].training
    assert len({model.loss(np.array([[1, 2, 3]]), np.array([[1, 2, 3]])).item() for _ in range(5)}) > 1


def test_nan_stops_with_advice():
    run = trainer()
    run.model.parameters()[0].data[:] = np.nan
    with pytest.raises(ValueError, match="loss at step 0 is nan: lower the learning rate"):
        run.train()


def test_a_gradient_that_is_not_finite_is_refused_before_the_update():
    run, updates = trainer(), []
    first = run.model.parameters()[0]
    first.data[:] = 0
    run.model.loss = lambda ids, labels: (first**0.5).sum()  # 0, with an infinite slope
    run.optimizer.step = lambda: updates.append(1)
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="gradient norm at step 0 is inf: lower"):
        run.train()
    assert not updates


class TestMerging:
    def adapted(self):
        model = LoRAModel(small(), ["q_proj", "up_proj"], rank=2)
        model.inject_lora()
        rng = np.random.default_rng(0)
        for p in model.lora_parameters():
            p.data = p.data + rng.normal(size=p.shape).astype(np.float32)
        return model

    def test_merged_computes_the_same_and_unmerged_is_the_same_to_the_bit(self):
        model, ids = self.adapted(), np.arange(20)[None]
        before, weights = model(ids).data, [p.data.copy() for p in model.base_parameters()]
        LoRAMerger().merge(model)
        # float32: W x + s B (A x) against (W + s B A) x
        np.testing.assert_allclose(model(ids).data, before, rtol=1e-3, atol=1e-4)
        assert not all(np.array_equal(p.data, w) for p, w in zip(model.base_parameters(), weights, strict=True))
        LoRAMerger().unmerge(model)
        assert all(np.array_equal(p.data, w) for p, w in zip(model.base_parameters(), weights, strict=True))
        assert np.array_equal(model(ids).data, before)

    def test_twice_is_refused(self):
        model, merger = self.adapted(), LoRAMerger()
        with pytest.raises(ValueError, match="not merged"):
            merger.unmerge(model)
        merger.merge(model)
        with pytest.raises(ValueError, match="merged already"):
            merger.merge(model)
        with pytest.raises(ValueError, match="unmerge it before"):
            model.load_adapter(model.adapter())
        with pytest.raises(ValueError, match="no LoRA layers"):
            merger.merge(LoRAModel(small(), ["q_proj"]))


def test_benchmark_of_an_untrained_model_is_chance():
    model = small()
    for p in model.parameters():
        p.data = np.zeros_like(p.data)
    result = Benchmark(model, data()).evaluate()
    assert result["perplexity"] == pytest.approx(256, rel=1e-5)
    assert result["accuracy"] == 0.0  # id 0 is the likeliest of equals, and is never right
    assert result["trainable_params"] == result["total_params"] == sum(p.size for p in model.parameters())


def test_measured_sees_the_memory():
    result = measured(lambda: np.ones(2_000_000))
    assert 16e6 <= result["peak_memory"] < 17e6
    assert result["training_time"] > 0
