"""llama.cpp as a peer. CI has no node-llama-cpp, so a stand-in for node answers here as the script does."""

import pytest

from course_lib.benchmarks.generate import Run, _compare, plot_generate
from course_lib.benchmarks.llama_cpp import LlamaCpp
from course_lib.errors import CourseError

NODE = """#!/bin/sh
case "$1" in *.mjs) ;; *) echo "no script" >&2; exit 1;; esac
echo {first}
while read line; do echo '{{"first": 20.0, "last": 120.0, "count": 11}}'; done
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with node-llama-cpp in it; the test says what node answers first."""
    place = tmp_path / "llama"
    (place / "node_modules" / "node-llama-cpp").mkdir(parents=True)
    (tmp_path / "bin").mkdir()

    def answering(first):
        node = tmp_path / "bin" / "node"
        node.write_text(NODE.format(first=first))
        node.chmod(0o755)
        return place

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return answering


def test_it_is_asked_once_for_each_run_and_leaves_no_script_behind(folder, tmp_path):
    place = folder("ready")
    with LlamaCpp(place, tmp_path / "model.gguf", [1, 2], 11, 1) as run:
        for _ in range(2):
            told = run()
            assert (told.first_s, told.total_s, told.tokens) == (0.02, 0.12, 11)
            assert told.token_ms == pytest.approx(10)
    assert [path.name for path in place.iterdir()] == ["node_modules"]


def test_what_it_says_when_it_cannot_start_is_passed_on(folder, tmp_path):
    with pytest.raises(CourseError, match="llama.cpp stopped: cannot load"):
        LlamaCpp(folder("'cannot load'"), tmp_path / "model.gguf", [1], 5, 1)


def test_what_is_missing_comes_with_its_cure(tmp_path, monkeypatch, folder):
    folder("ready")
    with pytest.raises(CourseError, match="run `npm install node-llama-cpp` in it"):
        LlamaCpp(tmp_path, tmp_path / "model.gguf", [1], 5, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CourseError, match="there is no node here"):
        LlamaCpp(tmp_path, tmp_path / "model.gguf", [1], 5, 1)


def test_ours_are_compared_with_it_round_by_round():
    """The median of the rounds' ratios, and not the ratio of medians: 2, 1 and 4 here."""
    runs = {"transformers float32": [9, 1, 1, 1], "ours int4": [9, 4, 2, 8], "llama.cpp 4-bit, threads 1": [9, 2, 2, 2]}
    lines = []

    def contender(speeds):
        waiting = iter(speeds)
        return lambda: Run(0.5, 1 / next(waiting), 1, 1)

    contenders = {name: contender(speeds) for name, speeds in runs.items()}
    figures = _compare(contenders, 3, lines.append)
    assert figures["ours int4 / llama.cpp 4-bit, threads 1"] == pytest.approx(2)
    assert figures["ours int4 / transformers float32"] == pytest.approx(4)
    assert "transformers float32 / llama.cpp 4-bit, threads 1" not in figures
    # One line for each run, the warm-up's too: whoever waits sees what runs
    assert [line.partition(":")[0] for line in lines[2:4]] == [
        "warm-up, llama.cpp 4-bit, threads 1",
        "round 1 of 3, transformers float32",
    ]
    assert len(lines) == 12


def test_the_plot(tmp_path):
    figures = {"rows": 1, "new tokens": 8, "a, tok/s": 3.0, "b, tok/s": 5.0, "b, cache off, tok/s": 1.0}
    plot_generate(figures, tmp_path / "speeds.png")
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")
