"""Every chapter executes on the smoke profile, and what it recorded is what the chapter claims."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of the executed LoRA chapter."""
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "course_lib.cli", "run", "03", "--profile", "smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out / "03_lora"


@pytest.mark.slow
@pytest.mark.weights
def test_lora_chapter(smoke):
    recorded = json.loads((smoke / "metrics.json").read_text())["recorded"]
    assert recorded["numpy_gradient_error"] < 1e-7
    assert recorded["trainable_parameters"] == 460_800
    assert recorded["base_parameters"] == 134_515_008
    assert recorded["change_at_step_0"] == 0.0
    assert recorded["loss_last"] < recorded["loss_first"]
    assert recorded["peft_loss_difference"] < 1e-3  # the band the chapter prints for this profile
    assert recorded["adapter_bytes"] < recorded["base_bytes"] / 200

    notebook = nbformat.read(smoke / "notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    shown = [output for output in outputs if output.get("name") != "stderr"]  # libraries' warnings name their files
    assert str(ROOT) not in json.dumps([notebook.metadata, shown]), "no path of this machine on a page"
