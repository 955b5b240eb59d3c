"""`course drift`: what newer libraries change is named, with the library."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.cli import main
from course_lib.execution.drift import Package, diagnose, failures, markdown, versions_drifted

ROOT = Path(__file__).parents[2]
CHANGED = {name: Package(name, "1.0", "2.0") for name in ("trl", "peft", "transformers")}
TRACEBACK = """
tests/parity/test_sft.py:40: in test_x
    trainer = SFTTrainer(model, args=config)
.venv/lib/python3.11/site-packages/trl/trainer/sft_trainer.py:300: in __init__
    super().__init__(model=model, tokenizer=processing_class)
E   TypeError: Trainer.__init__() got an unexpected keyword argument 'tokenizer'
"""


@pytest.mark.parametrize(
    ("said", "kind", "library", "what"),
    [
        (TRACEBACK, "argument", "trl 1.0 → 2.0", "Trainer.__init__(tokenizer=...)"),
        (
            "E   TypeError: f() missing 1 required keyword-only argument: 'cache'\nsite-packages/peft/x.py:3: in f",
            "argument",
            "peft 1.0 → 2.0",
            "f(cache=...)",
        ),
        (
            "ImportError: cannot import name 'StaticCache' from 'transformers.cache_utils' (/x/cache_utils.py)",
            "name",
            "transformers 1.0 → 2.0",
            "transformers.cache_utils.StaticCache",
        ),
        ("AttributeError: module 'trl' has no attribute 'DPOTrainer'", "name", "trl 1.0 → 2.0", "trl.DPOTrainer"),
        ("ModuleNotFoundError: No module named 'peft.tuners.boft'", "name", "peft 1.0 → 2.0", "peft.tuners.boft"),
        (
            "AttributeError: 'LlamaConfig' object has no attribute 'rope_theta'",
            "name",
            "unknown",
            "LlamaConfig.rope_theta",
        ),
        (
            "03_lora is not as expected (smoke/03_lora.json):\n  loss_last is 2.6, expected 2.5 ± 0.0025.",
            "number",
            "unknown",
            "loss_last is 2.6, expected 2.5 ± 0.0025.",
        ),
        (
            "Tensor-likes are not close!\nE   Greatest absolute difference: 0.02 at (0, 1)\npeft agrees not",
            "number",
            "peft 1.0 → 2.0",
            "Greatest absolute difference: 0.02",
        ),
        ("E   RuntimeError: no kernel\n", "behaviour", "unknown", "RuntimeError: no kernel"),
    ],
)
def test_a_drift_is_named(said, kind, library, what):
    (drift,) = diagnose("test_x", said, CHANGED)
    assert (drift.where, drift.kind, drift.library, drift.what) == ("test_x", kind, library, what)


def test_each_number_is_named():
    said = "x is not as expected:\n  loss is 2, expected 1.\n  steps was not recorded; expected 3."
    assert [drift.what for drift in diagnose("x", said, {})] == [
        "loss is 2, expected 1.",
        "steps was not recorded; expected 3.",
    ]


def test_what_is_not_pinned_so_is_listed(tmp_path):
    (tmp_path / "constraints.txt").write_text("# pins\npytest==0.1\nnumpy==0.2 ; python_full_version < '3'\n")
    found = {each.name: each for each in versions_drifted(tmp_path / "constraints.txt")}
    assert found["pytest"].pinned == "0.1"
    assert found["pytest"].here == pytest.__version__
    assert found["torch"].pinned == "not pinned"
    assert "adapting-language-models" not in found


def test_a_missing_report_says_nothing(tmp_path):
    assert failures(tmp_path / "none.xml") == {}
    assert "Nothing drifted" in markdown([], [])


@pytest.mark.slow
def test_the_running_environment(tmp_path, monkeypatch, capfd):
    """--here on a test that uses an argument that does not exist, and on one that passes."""
    (tmp_path / "test_drifts.py").write_text(
        "import json\n\ndef test_good():\n    assert json.loads('1') == 1\n\n"
        "def test_bad():\n    json.loads('1', encodings='utf-8')\n"
    )
    monkeypatch.chdir(ROOT)
    words = [
        "drift",
        "--here",
        "--tests",
        str(tmp_path / "test_drifts.py"),
        "--chapters",
        "none",
        "--out",
        str(tmp_path),
    ]
    assert main([*words, "--summary", str(tmp_path / "summary.md")]) == 1
    (drift,) = json.loads((tmp_path / "drift.json").read_text())["drifts"]
    assert drift["kind"] == "argument"
    assert drift["where"].endswith("::test_bad")
    assert "(encodings=...)" in drift["what"]
    assert "| argument |" in (tmp_path / "summary.md").read_text()
    assert "## What drifted" in capfd.readouterr().out


@pytest.mark.slow
def test_offline_it_says_so_in_a_sentence(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "TORCH": "cuda"}  # no question to a second index
    command = [sys.executable, "-m", "course_lib.cli", "drift", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        "course: The package index does not answer, and drift shows only in its newest releases: try with a network.\n"
    )


@pytest.mark.slow
def test_whoever_ends_it_ends_its_tests(tmp_path):
    """As `timeout` and a scheduler do it. The tests say their process's number, and would sleep for an hour."""
    said = tmp_path / "process"
    (tmp_path / "test_sleeps.py").write_text(
        "import os, time\n\ndef test_sleeps():\n"
        f"    with open({str(said)!r}, 'w') as file:\n        print(os.getpid(), file=file)\n"
        "    time.sleep(3600)\n"
    )
    (tmp_path / "drift.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom course_lib.cli import main\nfrom course_lib.commands import drift\n"
        "drift._newest = lambda root, out: Path(sys.executable)  # nothing is installed\nmain(sys.argv[1:])\n"
    )
    command = [sys.executable, str(tmp_path / "drift.py"), "drift", "--tests", str(tmp_path / "test_sleeps.py")]
    command += ["--chapters", "none", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as drift:
        _wait(lambda: said.exists() and said.read_text().endswith("\n"))
        drift.terminate()
        assert drift.wait(60) == 143
    with contextlib.suppress(ProcessLookupError):  # killed, and perhaps not yet buried
        _wait(lambda: _ended(int(said.read_text())))


def _ended(process: int) -> bool:
    os.kill(process, 0)  # ProcessLookupError where there is none
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def _wait(done, seconds=120):
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.1)
