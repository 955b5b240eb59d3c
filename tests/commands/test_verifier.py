"""`course verifier` and `course data make-preferences` from end to end on tiny models: what they write and refuse."""

import json

import pytest
from tiny_runs import course

from course_lib.data import read_records
from course_lib.models.verifier import Verifier

SMALL = ("--hidden-size", 16, "--num-hidden-layers", 1, "--vocab-size", 300, "--seq-len", 48, "--batch-size", 16)
SMALL += ("--encoder-dropout", 0)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def answers(tmp_path):
    """Problems whose first word says whether yes or no is right."""
    asked = [f"{('Lamp', 'Wind')[n % 2]} {n}?" for n in range(60)]
    rows = [
        {"problem": q, "answers": ["yes", "no"], "correct": [q[0] == "L", q[0] != "L"]} for q in asked
    ]  # as make-preferences keeps them
    return write(tmp_path / "answers.samples.jsonl", rows)


def train(answers, output, *arguments):
    return course("verifier", "train", "--dataset", answers, "--output", output, "--log-every", 0, *SMALL, *arguments)


def test_a_verifier_is_trained_scores_and_reranks(answers, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(answers, run, "--epochs", 12, "--lr", 5e-3) == 0
    printed = capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["held_out"]["auc"] > 0.9
    assert f"AUC {summary['held_out']['auc']:.3f}" in printed
    assert {"config.json", "model.safetensors", "run.json", "log.jsonl", "reliability.png"} <= {
        path.name for path in run.iterdir()
    }

    assert course("verifier", "score", run, "--problem", "Lamp 7?", "--answer", "yes") == 0
    assert float(capsys.readouterr().out) == pytest.approx(Verifier.load(run).score("Lamp 7?", "yes"), abs=1e-4)

    scored = tmp_path / "scored.jsonl"
    assert course("verifier", "score", run, "--input", answers, "--output", scored) == 0
    assert "120 answers to 60 problems" in capsys.readouterr().out
    assert len(scored.read_text().splitlines()) == 120

    best = tmp_path / "best.jsonl"
    assert course("verifier", "rerank", run, answers, "--output", best) == 0
    printed = capsys.readouterr().out
    shares = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in printed.splitlines()[1:4]}
    assert shares["first"] == 50.0
    assert shares["verifier"] > 90
    chosen = [json.loads(line) for line in best.read_text().splitlines()]
    assert sum(each["answer"] == ("yes" if each["problem"][0] == "L" else "no") for each in chosen) > 54


def test_samples_without_verdicts_are_only_reranked(answers, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(answers, run, "--epochs", 1) == 0
    unknown = write(tmp_path / "unknown.jsonl", [{"problem": "Lamp 7?", "answers": ["yes", "no", ""]}])
    capsys.readouterr()
    assert course("verifier", "rerank", run, unknown) == 0
    printed = capsys.readouterr().out
    assert "pass@" not in printed
    assert printed.splitlines()[1].split()[1] in ("yes", "no")


def test_rows_that_are_held_out_are_not_trained_on(answers, tmp_path, capsys):
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    some = write(tmp_path / "some.jsonl", [row | {"split": ("train", "test")[n < 20]} for n, row in enumerate(rows)])
    assert train(some, tmp_path / "run", "--epochs", 1) == 0
    printed = capsys.readouterr()
    assert "80 answers; problems to train on" in printed.out
    assert f'40 answers of {some} say that they are held out and are left out, such as {some}:1 ("test")' in printed.err
    none = write(tmp_path / "none.jsonl", [row | {"split": "test"} for row in rows])
    assert train(none, tmp_path / "other", "--epochs", 1) == 2
    assert f"All answers of {none} say that they are held out" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_goes_on_and_a_finished_one_is_left_alone(answers, tmp_path, monkeypatch, capsys):
    from course_lib.alignment.verifier import Correctness

    options = ("--epochs", 3, "--checkpoint-every", 2)
    assert train(answers, tmp_path / "whole", *options) == 0

    report, calls = Correctness.report, []

    def cut(self):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return report(self)

    monkeypatch.setattr(Correctness, "report", cut)
    assert train(answers, tmp_path / "cut", *options) == 130
    monkeypatch.undo()
    assert train(answers, tmp_path / "cut", *options) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert train(answers, tmp_path / "cut", "--epochs", 4, "--checkpoint-every", 2, "--resume") == 2
    assert "begun with --epochs 3, not 4: leave --epochs out" in capsys.readouterr().err
    assert course("verifier", "train", "--output", tmp_path / "cut", "--resume") == 0  # with the run's own settings
    whole, resumed = (Verifier.load(tmp_path / name).score("Lamp 7?", "yes") for name in ("whole", "cut"))
    assert resumed == whole
    assert train(answers, tmp_path / "cut", *options, "--resume") == 2
    assert "is finished" in capsys.readouterr().err
    assert train(answers, tmp_path / "cutt", *options, "--resume") == 2
    assert f"cutt holds no run to resume. Did you mean {tmp_path / 'cut'}?" in capsys.readouterr().err
    assert not (tmp_path / "cutt").exists()


def test_a_decoder_with_a_scalar_head(answers, models, tmp_path):
    options = ("--kind", "decoder", "--model", models / "llama", "--train-blocks", 1, "--seq-len", 100, "--epochs", 1)
    run = tmp_path / "run"
    assert course("verifier", "train", "--dataset", answers, "--output", run, "--log-every", 0, *options) == 0
    assert Verifier.load(run).config.kind == "decoder"


def test_a_decoder_that_judges_each_token(answers, models, tmp_path):
    """And learns to write right answers, as the pipeline's does; a run from before there was a choice goes on."""
    options = ("--kind", "decoder", "--model", models / "llama", "--seq-len", 100, "--epochs", 1, "--log-every", 0)
    given = ("verifier", "train", "--dataset", answers, "--output")
    assert course(*given, tmp_path / "plain", *options, "--head", "tokens") == 0
    assert course(*given, tmp_path / "both", *options, "--head", "tokens", "--lm-weight", 1) == 0
    plain, both = (Verifier.load(tmp_path / name) for name in ("plain", "both"))
    assert plain.config.head == both.config.head == "tokens"
    blocks = [next(each.network.model.layers.parameters()) for each in (plain, both)]
    assert not blocks[0].equal(blocks[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--dataset", "word_problem", "--output", "out"], "Did you mean word_problems?"),
        (["train", "--dataset", "{answers}", "--output", "{models}/llama"], "is not empty"),
        (["train", "--dataset", "{answers}", "--output", "out", "--resume"], "holds no run to resume"),
        (["train", "--dataset", "{answers}", "--output", "out", "--author", "nobody"], "nobody of that name"),
        (["train", "--dataset", "{answers}", "--output", "out", "--model", "gpt2"], "are for --kind decoder"),
        (["train", "--dataset", "{answers}", "--output", "out", "--head", "tokens"], "--head tokens is for --kind"),
        (["train", "--dataset", "{answers}", "--output", "out", "--lm-weight", "1"], "for --head tokens"),
        (["train", "--dataset", "{answers}", "--output", "out", "--vocab-size", "9"], "--vocab-size 9"),
        (["train", "--output", "out", "--limit", "2"], "too few problems to share out: 1 to train on, 1 to choose by"),
        (["train", "--output", "out", "--epochs", "0"], "--epochs 0 is not possible. It has to be at least 1"),
        (["train", "--output", "out", "--limit", "0"], "--limit 0 is not possible"),
        (["train", "--output", "out", "--seq-len", "0"], "--seq-len 0 is not possible"),
        (["train", "--output", "out", "--weight-decay", "-1"], "--weight-decay -1.0 is not possible"),
        (["train", "--output", "out", "--lr", "nan"], "--lr nan is not possible. It has to be above 0"),
        (["train", "--output", "out", "--encoder-dropout", "1"], "--encoder-dropout 1.0 is not possible"),
        (["score", "{models}/none", "--problem", "a", "--answer", "b"], "There is no verifier"),
        (["score", "{models}/llama", "--problem", "a", "--answer", "b"], "model of type 'llama' and no verifier"),
        (["score", "{models}/llama", "--problem", "a"], "Give --problem and --answer, or --input"),
        (["score", "{models}/llama", "--input", "{answers}", "--output", "{answers}"], "exists"),
        (["rerank", "{models}/llama", "none.jsonl"], "There is no file none.jsonl"),
    ],
)
def test_what_is_refused_in_a_sentence(arguments, said, answers, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.format(answers=answers, models=models) for word in arguments]
    assert course("verifier", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()  # nothing that a second try would be refused for


def test_empty_text_is_refused_in_a_sentence(answers, tmp_path, capsys):
    assert train(answers, tmp_path / "run", "--epochs", 1) == 0
    assert course("verifier", "score", tmp_path / "run", "--problem", "Lamp 7?", "--answer", " ") == 2
    assert "The answer is empty" in capsys.readouterr().err


# --- course data make-preferences ---


def make(models, tmp_path, *arguments, output="pairs.jsonl"):
    return course(
        *("data", "make-preferences", "--model", models / "llama", "--output", tmp_path / output),
        *("--problems", tmp_path / "problems.jsonl", "--samples", 3, "--max-new-tokens", 3, *arguments),
    )


@pytest.fixture
def even_is_right(monkeypatch, tmp_path):
    """A random model is never right, so here an answer of an even number of letters is."""
    from course_lib.alignment import sampled_pairs

    monkeypatch.setattr(sampled_pairs, "same_number", lambda answer, text: len(text) % 2 == 0)
    rows = [{"question": f"{n} + 3?", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3}"} for n in range(6)]
    return write(tmp_path / "problems.jsonl", rows)


def test_pairs_are_written_for_dpo_and_the_same_again(models, tmp_path, even_is_right, capsys):
    assert make(models, tmp_path, "--seed", 5) == 0
    printed = capsys.readouterr().out
    rows = read_records(tmp_path / "pairs.jsonl").records
    assert f"{len(rows)} pairs" in printed
    assert all(len(row.response) % 2 == 0 and len(row.rejected or "") % 2 for row in rows)
    assert make(models, tmp_path, "--seed", 5, output="again.jsonl") == 0
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "pairs.jsonl").read_text()
    options = ("--dataset", tmp_path / "pairs.jsonl", "--steps", 1, "--threads", 1, "--output", tmp_path / "dpo")
    assert course("dpo", "--model", models / "llama", *options) == 0


def test_nothing_is_written_over_and_a_cut_run_goes_on(models, tmp_path, even_is_right, capsys):
    assert make(models, tmp_path) == 0
    samples = tmp_path / "pairs.samples.jsonl"
    before, pairs = samples.read_text(), (tmp_path / "pairs.jsonl").read_text()
    assert make(models, tmp_path) == 2
    assert "pairs.jsonl exists" in capsys.readouterr().err
    (tmp_path / "pairs.jsonl").unlink()
    samples.write_text("".join(before.splitlines(keepends=True)[:3]))
    assert make(models, tmp_path) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert make(models, tmp_path, "--temperature", 0.5, "--resume") == 2
    assert "begun with temperature 1.0, not 0.5" in capsys.readouterr().err
    assert make(models, tmp_path, "--resume", output="pair.jsonl") == 2
    error = capsys.readouterr().err
    assert "There is nothing to resume: " in error
    assert f"Did you mean {samples}?" in error
    assert make(models, tmp_path, "--resume") == 0
    assert (samples.read_text(), (tmp_path / "pairs.jsonl").read_text()) == (before, pairs)


def test_one_command_that_is_sent_again_begins_goes_on_and_ends(models, answers, tmp_path, even_is_right, capsys):
    """`--resume auto`, as a chain of jobs on a cluster sends it."""
    assert make(models, tmp_path, "--resume", "auto") == 0
    samples, pairs = ((tmp_path / name).read_text() for name in ("pairs.samples.jsonl", "pairs.jsonl"))
    (tmp_path / "pairs.jsonl").unlink()
    (tmp_path / "pairs.samples.jsonl").write_text("".join(samples.splitlines(keepends=True)[:3]))
    assert make(models, tmp_path, "--resume", "auto") == 0
    assert (tmp_path / "pairs.jsonl").read_text() == pairs
    capsys.readouterr()
    assert make(models, tmp_path, "--resume", "auto") == 0
    assert "pairs.jsonl is there already: nothing is left to do" in capsys.readouterr().out
    assert train(answers, tmp_path / "verifier", "--epochs", 1, "--resume", "auto") == 0
    trained = (tmp_path / "verifier" / "run.json").read_text()
    assert train(answers, tmp_path / "verifier", "--epochs", 1, "--resume", "auto") == 0
    assert (tmp_path / "verifier" / "run.json").read_text() == trained


def test_problems_without_a_pair_are_counted_and_named(models, tmp_path, monkeypatch, capsys):
    rows = [{"question": f"{n} + 3?", "answer": f"#### {n + 3}"} for n in range(5)]
    write(tmp_path / "problems.jsonl", rows)
    assert make(models, tmp_path) == 2
    out, err = capsys.readouterr()
    assert "problems without a pair: 5 (no right answer)" in out
    assert "problems.jsonl:1" in out
    assert "No problem has both" in err
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "pairs.json"], "does not end with .jsonl"),
        (["--output", "pairs.jsonl", "--problems", "word_problem"], "Did you mean word_problems?"),
        (["--output", "pairs.jsonl", "--samples", "1"], "at least 2 answers"),
        (["--output", "pairs.jsonl", "--temperature", "0"], "without chance"),
        (["--output", "pairs.jsonl", "--top-p", "0"], "top_p=0.0 is not possible"),
        (["--output", "pairs.jsonl", "--pairs-per-problem", "0"], "--pairs-per-problem 0 is not possible"),
        (["--output", "pairs.jsonl", "--adapter", "none"], "There is no adapter none"),
    ],
)
def test_make_preferences_refuses_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert course("data", "make-preferences", *arguments) == 2
    assert said in capsys.readouterr().err
