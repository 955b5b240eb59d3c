"""The same server by vLLM: its own words, and adapters in the form that it reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from served import ROOT
from tiny_runs import loaded

from course_lib.adapters import apply_lora_to_model, save_adapter, save_lora_weights
from course_lib.errors import CourseError
from course_lib.quantization import quantize_model
from course_lib.serve.settings import ServeSettings
from course_lib.serve.vllm import vllm_command

# Of vLLM 0.33.0's sources: make_arg_parser, FrontendArgs, EngineArgs.add_cli_args
VLLM_OPTIONS = {
    "--host", "--port", "--served-model-name", "--dtype", "--max-num-seqs", "--max-num-queued-reqs", "--block-size",
    "--num-gpu-blocks-override", "--enable-lora", "--max-loras", "--max-lora-rank", "--lora-modules",
}  # fmt: skip


def test_vllm_takes_over_with_its_own_words(base, tmp_path):
    """A stand-in for the program prints what it was given."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ.get('VLLM_API_KEY')]))\n"
    )
    program.chmod(0o755)
    one = save_adapter(apply_lora_to_model(quantize_model(loaded(base)), rank=8), tmp_path / "one", str(base)).parent
    # A file that vLLM cannot read: it is given a folder.
    two = save_lora_weights(apply_lora_to_model(loaded(base), rank=4), tmp_path / "two.pt")
    words = ["--backend", "vllm", "--adapter", f"one={one}", f"two={two}", "--api-key", "k"]
    words += ["--host", "0.0.0.0", "--weights", "bfloat16", "--max-batch", "64", "--max-body-bytes", "5"]
    run = subprocess.run(
        [sys.executable, "-m", "course_lib.cli", "serve", *map(str, words)],
        env={"PATH": str(program.parent), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "vLLM has no setting like max_body_bytes" in run.stderr
    assert "note: one was trained on a base quantised as nf4, blocks of 64" in run.stderr
    assert "note: two" not in run.stderr
    given, key = json.loads(run.stdout.splitlines()[-1])
    assert key == "k"
    assert "k" not in given
    assert {word for word in given if word.startswith("--")} <= VLLM_OPTIONS
    assert given[:6] == ["serve", str(base), "--host", "0.0.0.0", "--port", "8000"]
    pairs = dict(zip(given, given[1:], strict=False))
    assert (pairs["--dtype"], pairs["--max-num-seqs"], pairs["--max-num-queued-reqs"]) == ("bfloat16", "64", "128")
    assert (pairs["--max-loras"], pairs["--max-lora-rank"]) == ("2", "8")
    modules = [json.loads(word) for word in given[given.index("--lora-modules") + 1 :]]
    assert [each["name"] for each in modules] == ["one", "two"]
    for each in modules:  # they are still there when vLLM starts
        assert Path(each["path"], "adapter_config.json").is_file()
    assert "--block-size" not in given  # vLLM's own, made for a GPU


def test_weights_of_ours_are_not_vllms(base):
    with pytest.raises(CourseError, match="--weights int8 is a format of the course's own engine"):
        vllm_command(ServeSettings(weights="int8"), str(base), {})
