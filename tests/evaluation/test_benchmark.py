"""The Benchmark's numbers against arithmetic done another way, its tables, files and errors."""

import copy
import csv
import html.parser
import json
import math

import numpy as np
import pytest
import torch

from course_lib.adapters import inject_butterfly, inject_lora, save_adapter
from course_lib.errors import CourseError
from course_lib.evaluation import Benchmark, evaluate_loss
from course_lib.evaluation.benchmark import _shown_size
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.training import StepRecord, Trainer, TrainingConfig

BLOCKS = np.random.default_rng(0).integers(0, 97, (5, 12))


def by_hand(model, blocks):
    """Loss and accuracy a token at a time, each from its own forward pass, in NumPy's float64."""
    losses, hits = [], []
    with torch.no_grad():
        for row in blocks:
            for end in range(1, len(row)):
                scores = model(torch.as_tensor(row[None, :end])).logits[0, -1].double().numpy()
                losses.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row[end]])
                hits.append(scores.argmax() == row[end])
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_loss_perplexity_and_accuracy_by_hand(tiny_llama, batch_size):
    blocks = BLOCKS.copy()
    with torch.no_grad():  # let the model be right about some tokens, so that the accuracy is neither 0 nor 1
        for time in range(0, 10, 3):
            guess = tiny_llama(torch.as_tensor(blocks[:, : time + 1])).logits[:, -1].argmax(-1)
            blocks[:, time + 1] = guess.numpy()
    loss, accuracy = by_hand(tiny_llama, blocks)
    row = Benchmark(blocks, batch_size).add("a", tiny_llama)["a"]
    assert row.loss == pytest.approx(loss, rel=1e-6)
    assert row.loss == pytest.approx(evaluate_loss(tiny_llama, blocks), rel=1e-6)
    assert row.perplexity == pytest.approx(math.exp(loss), rel=1e-6)
    assert row.accuracy == accuracy
    assert 20 / 55 <= accuracy < 1


def test_a_model_that_scores_all_tokens_alike(tiny_llama):
    with torch.no_grad():
        tiny_llama.lm_head.weight.zero_()
    blocks = np.zeros((3, 6), dtype=np.int64)
    blocks[:, ::2] = 5
    row = Benchmark(blocks).add("flat", tiny_llama)["flat"]
    assert row.perplexity == pytest.approx(97, rel=1e-6)
    assert row.accuracy == 9 / 15  # of equal scores the lowest id is the guess: right where the target is 0


def test_parameters_counted_by_formula(tiny_llama):
    full, lora, butterfly = (copy.deepcopy(tiny_llama) for _ in range(3))
    inject_lora(lora, ["q_proj", "v_proj"], rank=2)
    inject_butterfly(butterfly, ["q_proj"], stages=5)
    # embeddings and head; a block: q, o 32 x 32, k, v 16 x 32, three MLP matrices 32 x 64, two norms; the last norm
    base = 2 * 97 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    step = StepRecord(0, 1.0, 1e-3, 1.0, 0.5, 48)
    bench = Benchmark(BLOCKS).add("base", tiny_llama).add("full", full, [step])
    bench.add("LoRA", lora).add("butterfly", butterfly, [step])
    counts = {name: (row.trainable, row.total) for name, row in bench.results.items()}
    low_rank, angles = 2 * 2 * (32 + 32 + 32 + 16), 2 * 5 * 16
    assert counts == {
        "base": (0, base),
        "full": (base, base),
        "LoRA": (low_rank, base + low_rank),
        "butterfly": (angles, base + angles),
    }


def test_a_tied_embedding_is_counted_once():
    model = Decoder(DecoderConfig("gpt2", 97, 16, 1, 2, 32))
    row = Benchmark(BLOCKS).add("gpt2", model)["gpt2"]
    assert row.total == 97 * 16 + 32 * 16 + (12 * 16**2 + 13 * 16) + 2 * 16


def test_training_costs_come_from_the_records(tiny_llama, tmp_path):
    inject_lora(tiny_llama, ["q_proj"], rank=2)
    records = Trainer(tiny_llama, TrainingConfig(lr=1e-2), log_every=0).train([BLOCKS, BLOCKS, BLOCKS])
    weights = save_adapter(tiny_llama, tmp_path / "adapter")
    bench = Benchmark(BLOCKS).add("file", tiny_llama, records, weights)
    bench.add("folder", tiny_llama, records, str(tmp_path / "adapter"))
    row = bench["file"]
    assert row.seconds == pytest.approx(records[0].seconds + records[1].seconds + records[2].seconds)
    assert row.peak_memory == max(record.peak_memory for record in records) > 10_000_000
    assert row.checkpoint_bytes == len(weights.read_bytes())
    assert bench["folder"].checkpoint_bytes == sum(len(file.read_bytes()) for file in (tmp_path / "adapter").iterdir())
    assert bench["folder"].checkpoint_bytes > row.checkpoint_bytes


def test_what_was_not_measured_is_none(tiny_llama):
    records = [StepRecord(0, 1.0, 1e-3, 1.0, 0.25, 48)]  # a log without memory
    row = Benchmark(BLOCKS).add("a", tiny_llama, records)["a"]
    assert (row.seconds, row.peak_memory, row.checkpoint_bytes) == (0.25, None, None)


def test_measuring_does_not_change_the_model():
    model = Decoder(DecoderConfig("gpt2", 97, 16, 1, 2, 32, dropout=0.5)).train()
    first, second = (Benchmark(BLOCKS).add("a", model)["a"] for _ in range(2))
    assert first == second, "dropout must be off while measuring"
    assert model.training
    Benchmark(BLOCKS).add("a", model.eval())
    assert not model.training


@pytest.fixture
def bench(tiny_llama):
    training = [StepRecord(step, 2.0, 1e-3, 1.0, 0.75, 48, peak_memory=5_000_000 + step) for step in range(4)]
    adapted = copy.deepcopy(tiny_llama)
    inject_lora(adapted, ["q_proj"], rank=2)
    return Benchmark(BLOCKS).add("base", tiny_llama).add("LoRA <r=2> | q", adapted, training)


def test_the_text_table(bench):
    head, base, lora = bench.table().splitlines()
    assert str(bench) == bench.table()
    assert head.split("  ")[0] == "model"
    assert head.endswith("checkpoint")
    assert f"{bench['base'].loss:.3f}" in base
    assert base.split()[0] == "base"
    assert "3.0 s" in lora
    assert "5.0 MB" in lora
    assert "256" in lora
    columns = [line.index(cell) + len(cell) for line, cell in ((head, "training"), (base, "–"), (lora, "3.0 s"))]
    assert len(set(columns)) == 1, "numbers line up on the right"


@pytest.mark.parametrize(("size", "shown"), [(39_200, "39 kB"), (250_000, "0.2 MB"), (2_766_100_000, "2,766.1 MB")])
def test_a_small_size_is_not_zero(size, shown):
    assert _shown_size(size) == shown
    assert _shown_size(None) == "–"


def test_the_html_table_has_every_cell_and_escapes_names(bench):
    cells, parser = [], html.parser.HTMLParser()
    parser.handle_data = cells.append
    parser.feed(bench._repr_html_())
    assert "".join(cells).count("–") == 4
    assert "LoRA <r=2> | q" in cells
    assert "<r=2>" not in bench._repr_html_()
    assert len(cells) == 3 * 9


def test_json_and_csv_hold_the_same_numbers_in_full(bench, tmp_path):
    written = json.loads(bench.to_json(tmp_path / "new" / "b.json").read_text())
    assert written["held_out"] == {"rows": 5, "predicted_tokens": 55}
    with bench.to_csv(tmp_path / "b.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(written["results"]) == 2
    for line, result in zip(lines, written["results"], strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in result.items()}
        assert result["loss"] == bench[result["name"]].loss
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["b.csv", "b.json"], "no temporary file is left"


@pytest.mark.parametrize("write", ["to_json", "to_csv"])
def test_a_file_is_overwritten_only_on_demand(bench, write, tmp_path):
    path = tmp_path / "mine"
    path.write_text("dear diary")
    with pytest.raises(CourseError, match="exists"):
        getattr(bench, write)(path)
    assert path.read_text() == "dear diary"
    getattr(bench, write)(str(path), overwrite=True)
    assert "LoRA" in path.read_text()


def test_the_plot_shows_each_model_where_it_stands(bench):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axis = bench.plot()
    base, lora = axis.get_lines()
    assert list(base.get_ydata()) == [bench["base"].loss] * 2
    assert base.get_linestyle() == "--"
    assert (list(lora.get_xdata()), list(lora.get_ydata())) == ([256], [bench["LoRA <r=2> | q"].loss])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(bench.results)
    assert axis.get_xscale() == "log"
    assert bench.plot(axis) is axis
    matplotlib.pyplot.close(axis.figure)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (np.arange(4), r"shape \(4,\)"),
        (np.zeros((0, 8), int), r"shape \(0, 8\)"),
        (np.zeros((3, 1), int), r"shape \(3, 1\)"),
        (np.zeros((3, 4)), "float64"),
    ],
)
def test_a_held_out_set_that_is_none(blocks, message):
    with pytest.raises(CourseError, match=message):
        Benchmark(blocks)


def test_what_cannot_be_added_leaves_no_row(bench, tiny_llama, tmp_path):
    with pytest.raises(CourseError, match="row 'base' already"):
        bench.add("base", tiny_llama)
    with pytest.raises(CourseError, match="no checkpoint .*nowhere"):
        bench.add("c", tiny_llama, checkpoint=tmp_path / "nowhere")
    with pytest.raises(CourseError, match="Token id 97 .* vocabulary of 97"):
        Benchmark(BLOCKS + 1 + 96 - BLOCKS.max()).add("c", tiny_llama)
    with torch.no_grad():
        tiny_llama.lm_head.weight.fill_(math.nan)
    with pytest.raises(CourseError, match="held-out loss of 'c' is nan"):
        bench.add("c", tiny_llama)
    assert list(bench.results) == ["base", "LoRA <r=2> | q"]
    with pytest.raises(CourseError, match="no row 'c'; it has"):
        bench["c"]
    with pytest.raises(CourseError, match="batch_size"):
        Benchmark(BLOCKS, batch_size=0)
    with pytest.raises(CourseError, match="empty"):
        Benchmark(BLOCKS).plot()
