"""The calculator against processes: a small model within a bound, and the real SmolLM2 within 10 %."""

import json
import sys

import pytest

from course_lib.benchmarks.memory import BASES, Case, bench_memory, measure, predict
from course_lib.cli import main
from course_lib.models.config import CONFIGS, parameter_count

linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is reset through /proc")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """modern-15m: 63 MB in float32, so that what a process does by the way counts for little."""
    from course_lib.models.decoder import Decoder
    from course_lib.models.huggingface import save_decoder

    folder = tmp_path_factory.mktemp("small")
    save_decoder(Decoder(CONFIGS["modern-15m"]), folder, overwrite=True)
    return str(folder)


def test_predicted_bases(small):
    """float32, bfloat16, and the linear layers in 8 and 4 bits beside a float32 embedding and norms."""
    config = CONFIGS["modern-15m"]
    count, stay = parameter_count(config), config.vocab_size * 384 + 17 * 384
    sizes = {base: predict(Case(small, base)) for base in BASES}
    assert (sizes["float32"], sizes["bfloat16"]) == (4 * count, 2 * count)
    linear = count - stay
    rows = 8 * (384 + 128 + 128 + 384 + 1024 + 1024 + 384)
    assert sizes["int8"] == 4 * stay + linear + 4 * rows
    assert sizes["nf4"] == 4 * stay + linear // 2 + 4 * linear // 64
    assert sizes["nf4"] - sizes["nf4-double"] == pytest.approx(0.373 / 8 * linear, rel=0.01)


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "base", "more"),
    [
        ("full", "float32", {}),
        ("full", "bfloat16", {}),
        ("lora", "float32", {"autocast": "bfloat16"}),
        ("lora", "float32", {"gradient_checkpointing": True}),
        ("qlora", "nf4-double", {}),
    ],
)
def test_a_small_models_training_is_within_15_per_cent(small, mode, base, more):
    case = Case(small, base, mode, 8, 128, **more)
    measured = measure(case)["peak"]
    assert predict(case) == pytest.approx(measured, rel=0.15)


@linux
@pytest.mark.slow
def test_the_command_writes_its_figures(small, tmp_path, monkeypatch, capsys):
    """Two cases of them: measuring all takes minutes."""
    import course_lib.benchmarks.memory as room

    monkeypatch.setattr(room, "bench_memory", lambda *given: bench_memory(*given, bases=("nf4",), modes=("lora",)))
    assert main(["bench", "memory", "--model", small, "--json", str(tmp_path / "m.json")]) == 0
    figures = json.loads((tmp_path / "m.json").read_text())["figures"]
    assert 0.75 < figures["base_nf4_ratio"] < 1.25
    assert figures["train_lora_as_run_mb"] >= 0.9 * figures["train_lora_mb"]
    assert "train_lora_ratio" in capsys.readouterr().out


@linux
@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("mode", ["full", "lora", "qlora"])
def test_smollm2s_training_is_within_10_per_cent(mode):
    case = Case("smollm2-135m-instruct", "nf4-double" if mode == "qlora" else "float32", mode, 4, 64)
    assert predict(case) == pytest.approx(measure(case)["peak"], rel=0.1)


@linux
@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("base", BASES)
def test_smollm2s_bases_are_within_10_per_cent(base):
    if base == "int8":
        pytest.importorskip("bitsandbytes")
    case = Case("smollm2-135m-instruct", base)
    assert predict(case) == pytest.approx(measure(case)["loaded"], rel=0.1)
