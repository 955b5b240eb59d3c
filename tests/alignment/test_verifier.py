"""Training a verifier: it learns, its problems stay apart, it goes on where it stopped, and its scores are judged."""

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from course_lib.alignment.verifier import (
    Correctness,
    calibrated,
    check_trainable,
    evaluate_scores,
    evaluate_verifier,
    fit_temperature,
    freeze_all_but_last,
    split_by_problem,
    train_verifier,
    validation_loss,
)
from course_lib.data.judged import Judged
from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.verifier import Verifier
from course_lib.scratch import BPETokenizer
from course_lib.training import CheckpointConfig, read_log


def numbers_to_repeat(count, seed=0):
    """Problems "Say 4711." with the right number, and one in which a digit is another."""
    rng, found = Random(seed), []
    for number in rng.sample(range(1000, 10_000), count):
        wrong = number + rng.choice([-100, -10, -1, 1, 10, 100])
        found += [Judged(f"Say {number}.", str(number), True), Judged(f"Say {number}.", str(wrong), False)]
    return found


def small(**settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 32, "dropout": 0.0}
    return Verifier.encoder(BPETokenizer(), **sizes | settings)


def small_decoder():
    torch.manual_seed(0)
    return Verifier.from_decoder(Decoder(DecoderConfig("llama", 256, 32, 2, 2, 32, 64)), BPETokenizer(), max_length=32)


def same_weights(one, other):
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_to_judge_problems_it_has_never_seen():
    train, validation, test = split_by_problem(numbers_to_repeat(300))
    verifier = small()
    before = validation_loss(verifier, validation)
    records = train_verifier(verifier, train, validation, epochs=8, batch_size=16, lr=2e-3)
    found = evaluate_verifier(verifier, test)
    assert before == pytest.approx(math.log(2), abs=1e-6)
    assert records[-1].metrics["accuracy"] > 0.7
    assert found.auc > 0.85
    assert found.within > 0.85
    assert (found.answers, found.right) == (2 * found.problems, 0.5)


def test_a_decoder_learns_too():
    """Yes or no, by the first word of the problem: what a head on random blocks can find out in seconds."""
    rng, answers = Random(0), []
    for number in rng.sample(range(1000, 10_000), 120):
        asked = ("Lamp", "Wind")[number % 2]
        answers += [Judged(f"{asked} {number}?", word, (word == "yes") == (asked == "Lamp")) for word in ("yes", "no")]
    train, test = split_by_problem(answers, (0.7, 0.3))
    verifier = small_decoder()
    train_verifier(verifier, train, epochs=10, batch_size=16, lr=5e-3)
    assert evaluate_verifier(verifier, test).auc > 0.95


def test_the_loss_is_binary_cross_entropy_over_all_answers_of_a_step():
    objective = Correctness()

    def network(input_ids, attention_mask, part_ids):
        return torch.tensor([2.0, -1.0, 0.5])

    batch = dict.fromkeys(("input_ids", "attention_mask", "part_ids"), torch.zeros(3, 4))
    batch["labels"] = torch.tensor([1, 0, -100])
    loss = objective.loss(network, batch, 0.5)
    assert objective.count(batch) == 2
    assert loss.item() == pytest.approx(0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))))
    assert objective.report() == {"accuracy": 1.0}
    assert objective.report() == {}


def test_the_language_models_loss_is_of_right_answers_alone():
    class Network(torch.nn.Module):
        def judge_and_log_probs(self, input_ids, attention_mask, part_ids):
            return torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-0.25, -4.0, -9.0])

    batch = dict.fromkeys(("input_ids", "attention_mask", "part_ids"), torch.zeros(3, 4))
    batch["labels"] = torch.tensor([1, 0, -100])
    loss = Correctness(lm_weight=2.0).loss(Network(), batch, 0.5)
    assert loss.item() == pytest.approx(0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + 2 * 0.25))


def test_a_token_head_learns_to_judge_what_the_language_model_learns_to_write():
    """The right answer repeats the letter of the problem: the joint loss finds it out, on problems never seen."""
    rng, answers = Random(0), []
    for number in rng.sample(range(1000, 10_000), 150):
        word = ("yes", "no")[number % 2]
        answers += [Judged(f"Say {word} {number}.", said, said == word) for said in ("yes", "no")]
    train, test = split_by_problem(answers, (0.7, 0.3))
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("llama", 256, 32, 2, 2, 32, 64))
    verifier = Verifier.from_decoder(model, BPETokenizer(), max_length=32, head="tokens")
    records = train_verifier(verifier, train, epochs=10, batch_size=16, lr=5e-3, lm_weight=1.0)
    assert records[-1].loss < records[0].loss
    assert evaluate_verifier(verifier, test).auc > 0.95


# --- problems stay apart ---


def test_all_answers_to_a_problem_are_on_one_side():
    answers = numbers_to_repeat(200)
    parts = split_by_problem(answers)
    problems = [{each.problem for each in part} for part in parts]
    assert sum(map(len, parts)) == len(answers)
    assert len(set().union(*problems)) == sum(map(len, problems))
    assert [len(part) / len(answers) for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.08)
    again = split_by_problem(answers[::-1])
    assert [{each.problem for each in part} for part in again] == problems
    assert [{each.problem for each in part} for part in split_by_problem(answers, seed=1)] != problems


def test_a_problem_in_two_parts_is_refused_and_so_are_answers_of_one_kind():
    answers = numbers_to_repeat(4)
    with pytest.raises(CourseError, match="1 problems are in training and validation, such as 'Say"):
        check_trainable(answers, answers[:1])
    with pytest.raises(CourseError, match="4 right and 0 wrong"):
        train_verifier(small(), answers[::2])
    with pytest.raises(CourseError, match="add up to 1"):
        split_by_problem(answers, (0.5, 0.6))
    with pytest.raises(CourseError, match="at least 1"):
        train_verifier(small(), answers, epochs=0)
    with pytest.raises(CourseError, match="answer is empty"):
        train_verifier(small(), [*answers, Judged("Say 1.", " ", False)])


# --- the weights that stay ---


def test_the_best_weights_stay_and_not_the_last_ones(tmp_path):
    train, validation = split_by_problem(numbers_to_repeat(40), (0.5, 0.5))
    verifier = small()
    records = train_verifier(verifier, train, validation, epochs=6, batch_size=8, lr=1e-2)
    losses = [record.eval_loss for record in records if record.eval_loss is not None]
    assert min(losses) < losses[-1]  # it learns twenty problems by heart
    assert validation_loss(verifier, validation) == pytest.approx(min(losses), abs=1e-6)


def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train, validation = split_by_problem(numbers_to_repeat(40), (0.7, 0.3))
    options = dict(epochs=2, batch_size=8, lr=3e-3, eval_every=3, seed=1)

    def run(folder, **more):
        verifier = small(dropout=0.1)
        places = dict(checkpoints=CheckpointConfig(folder, 2), log_path=folder / "log.jsonl")
        return verifier, train_verifier(verifier, train, validation, **options, **places, **more)

    whole, records = run(tmp_path / "whole")

    class Cut(Exception):
        pass

    def stop_at_four(self):
        if len(self.seen_steps) == 4:
            raise Cut
        self.seen_steps.append(1)
        return report(self)

    report = Correctness.report
    monkeypatch.setattr(Correctness, "report", stop_at_four)
    monkeypatch.setattr(Correctness, "seen_steps", [], raising=False)
    with pytest.raises(Cut):
        run(tmp_path / "cut")
    monkeypatch.undo()
    resumed, later = run(tmp_path / "cut", resume=True)
    assert same_weights(whole, resumed)
    assert [record.loss for record in read_log(tmp_path / "cut" / "log.jsonl")] == [each.loss for each in records]


def test_frozen_blocks_stay_and_the_others_learn():
    train = numbers_to_repeat(20)
    verifier, before = small_decoder(), small_decoder()
    freeze_all_but_last(verifier, 1)
    train_verifier(verifier, train, epochs=3, batch_size=8, lr=1e-2)
    after, start = verifier.network.state_dict(), before.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], start[name])}
    assert {name.split(".")[2] for name in changed if "layers" in name} == {"1"}
    assert "head.weight" in changed
    assert "model.embed_tokens.weight" not in changed
    with pytest.raises(CourseError, match="the decoder has 2"):
        freeze_all_but_last(verifier, 3)
    with pytest.raises(CourseError, match="begins anew"):
        freeze_all_but_last(small(), 1)


# --- calibration ---


def test_the_temperature_is_the_best_of_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, generator=generator, dtype=torch.float64)
    right = (torch.rand(400, generator=generator, dtype=torch.float64) < torch.sigmoid(logits / 2.5)).double()

    def loss(temperature):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits / temperature, right).item()

    found = fit_temperature(logits, right)
    assert found == pytest.approx(2.5, abs=0.6)
    assert loss(found) <= min(loss(each) for each in np.linspace(0.1, 10, 1000)) + 1e-7
    assert fit_temperature(logits, torch.ones(400)) == 1.0
    assert fit_temperature(-logits, right) == pytest.approx(20.0)  # it is always wrong: as near one half as allowed


def test_calibration_lowers_the_loss_and_keeps_the_order():
    rng = Random(0)
    noisy = [replace(each, correct=each.correct ^ (rng.random() < 0.25)) for each in numbers_to_repeat(90)]
    train, validation, test = split_by_problem(noisy, (0.4, 0.3, 0.3))
    verifier = small()
    train_verifier(verifier, train, epochs=20, batch_size=16, lr=5e-3)  # by heart: far too sure of itself
    cooled = calibrated(verifier, validation)
    plain, better = evaluate_verifier(verifier, test), evaluate_verifier(cooled, test)
    assert cooled.config.temperature > 1.2
    assert better.loss < plain.loss
    assert better.ece < plain.ece
    assert better.auc == pytest.approx(plain.auc, abs=1e-9)
    assert calibrated(verifier, []) is verifier


def test_the_evaluation_of_given_scores():
    answers = [Judged("a", "1", True), Judged("a", "2", False), Judged("b", "3", True), Judged("c", "4", False)]
    found = evaluate_scores(np.array([0.9, 0.2, 0.4, 0.6]), answers)
    assert (found.auc, found.within, found.mixed) == (0.75, 1.0, 1)
    assert found.accuracy == 0.5
    assert found.loss == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.4])))
    assert "AUC 0.750, within a problem 1.000 (1 problems with both)" in str(found)
