"""The compiled step: the logits of the step that is not compiled, every shape, and what happens without a compiler."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.inference import generate, make_cache, prepare
from course_lib.inference.compiled import missing_compiler, require_compiler
from course_lib.inference.products import PRODUCTS
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder

compiler = pytest.mark.skipif(missing_compiler() is not None, reason="torch.compile needs a C++ compiler")
# Logits are about 1. In float32 only sums are taken in another order. The other formats round each product's input to
# bfloat16, 8 bits, so a last bit of float32 can move a number by 2^-8; four such products lie on the way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.03, "int4": 0.03}


def one_block():
    """One layer, so that compiling takes seconds."""
    torch.manual_seed(1)
    return Decoder(DecoderConfig("llama", 96, 64, 1, 4, 4096, 96, 2)).eval()


@torch.inference_mode()
def step_logits(model, rows, steps):
    """The logits of some steps after a left-padded prompt, each of a token that is given: (steps, rows, vocabulary)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    cache, found = make_cache("static", model, 64), []
    for step in range(steps + 1):
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        found.append(output.logits[:, -1])
        ids = torch.full((len(rows), 1), 7 + step)
        mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long)], dim=1)
    return torch.stack(found[1:])


@compiler
@pytest.mark.slow
@pytest.mark.parametrize("weights", list(PRODUCTS))
def test_logits_are_those_of_the_step_that_is_not_compiled(weights):
    """Alone, and in a padded batch."""
    model = one_block()
    compiled = prepare(model, weights, compile=True)
    for rows in ([[5, 9, 31]], [[5, 9, 31, 7], [60]]):
        expected = step_logits(prepare(model, weights), rows, 5)
        torch.testing.assert_close(step_logits(compiled, rows, 5), expected, atol=TOLERANCE[weights], rtol=0)
    assert list(compiled.step.seconds) == [256]  # the one row went through it
    assert min(compiled.step.seconds.values()) > 0


@compiler
@pytest.mark.slow
def test_tokens_are_the_models():
    model = one_block()
    compiled = prepare(model, compile=True)
    for rows in ([[5, 9, 31]], [[5, 9, 31], [60, 61]]):
        assert generate(compiled, rows, 12, eos_token_id=()) == generate(model, rows, 12, eos_token_id=())


@compiler
@pytest.mark.slow
def test_more_shapes_than_torch_compiles_of_one_function():
    """torch gives up at the ninth shape of a function, which all models and shapes would share. Ours do not count."""
    model = one_block()
    expected = generate(model, [[5, 9, 31]], 3, eos_token_id=())
    compiled = prepare(model, compile=True)
    for number in range(1, 11):
        cache = make_cache("static", compiled, 256 * number)
        assert generate(compiled, [[5, 9, 31]], 3, cache=cache, eos_token_id=()) == expected
    assert len(compiled.step.seconds) == 10


@compiler
@pytest.mark.slow
def test_compiling_ahead():
    """What was compiled ahead is not compiled again when it is used, and its time is told once."""
    compiled = prepare(one_block(), compile=True)
    seconds = compiled.step.ahead(100)
    assert seconds == compiled.step.seconds[256] > 0
    assert compiled.step.ahead(200) == 0  # the same capacity
    generate(compiled, [[5, 9, 31]], 12, eos_token_id=())
    assert list(compiled.step.seconds) == [256]


def test_without_a_compiler_prepare_says_so_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model = one_block()
    assert generate(prepare(model, compile=True), [[5]], 3) == generate(model, [[5]], 3)
    assert "no C++ compiler is installed" in capsys.readouterr().out


def test_whoever_needs_a_compiler_is_told_which_one_is_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CourseError, match=r"there is no no-such-compiler here. Install it \(sudo apt install g\+\+\)"):
        require_compiler()


@compiler
@pytest.mark.slow
def test_a_compiler_that_fails_is_a_sentence(tmp_path):
    """In a process of its own, since torch remembers its compiler, and with a cache of its own, so that it is asked."""
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo "g++ 12.2.0"\necho "no headers" >&2; exit 1\n')
    broken.chmod(0o755)
    program = """
from test_compiled import one_block
from course_lib.errors import CourseError
from course_lib.inference import prepare
try:
    prepare(one_block(), compile=True).step.ahead(8)
except CourseError as error:
    print(error)
"""
    paths = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    settings = {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | settings)
    assert run.stdout.startswith("torch.compile failed: "), run.stdout + run.stderr[-1000:]
    assert "sudo apt install g++ python3-dev" in run.stdout
