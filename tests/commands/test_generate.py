"""`course generate`: the words of other programs, each cache, an adapter, and what is refused."""

import re
import shlex

import pytest
import torch
from tiny_runs import course

from course_lib.errors import CourseError
from course_lib.inference import complete
from course_lib.inference.compiled import missing_compiler
from course_lib.models.pretrained import load

# python -m src.paged_attention is course generate
PAGED = """
course generate \
  --model_path {model} \
  --adapter_path {adapter} \
  --prompt "Explain gravity to a kid:" \
  --max_new_tokens 80 \
  --page_size 8 \
  --max_pages 6 \
  --temperature 0.9 \
  --repetition_penalty 1.1"""


def generated(capsys, *arguments):
    """The text after the prompt, and the line under it."""
    assert course("generate", *arguments) == 0
    text, _, report = capsys.readouterr().out.rstrip("\n").rpartition("\n\n")
    return text, report


def test_an_adapter_in_the_words_of_the_paged_demo(base, adapter, capsys):
    words = shlex.split(PAGED.format(model=base, adapter=adapter("notes")))[2:]
    text, report = generated(capsys, *words)
    assert text.startswith("Explain gravity to a kid:")
    # Whether the drawn answer outgrows six pages before it ends depends on the machine's rounding.
    speed = r"\d+ tokens? in [\d.]+ s: [\d.]+ tokens/s"
    assert re.fullmatch(speed + r", cache paged(; it has forgotten \d+ tokens)?", report)


def test_pages_that_were_dropped_are_counted(base, capsys):
    """A prompt of 40 tokens in two pages of eight: some are forgotten before the first token is drawn."""
    limits = ["--page-size", 8, "--max-pages", 2, "--max-new-tokens", 4]
    _, report = generated(capsys, "--model", base, "--prompt", "The wind " * 20, *limits)
    assert re.search(r", cache paged; it has forgotten \d+ tokens$", report)


@pytest.mark.parametrize(
    "options", [[], ["--cache", "none"], ["--cache", "int8"], ["--page-size", "4"], ["--sinks", "2"]]
)
def test_the_text_is_the_completion(base, capsys, options):
    model, tokenizer = load(base)
    expected = complete(model, tokenizer, ["The wind "], 12)[0]
    text, report = generated(capsys, "--model", base, "--prompt", "The wind ", "--max-new-tokens", 12, *options)
    assert text.startswith("The wind ")
    if "int8" not in options:
        assert text == "The wind " + "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in expected)
    assert "tokens/s" in report


def test_the_tokens_that_were_generated_are_counted(base, capsys):
    """Not those of the text: "--" can be one token, and may have come as two."""
    _, report = generated(capsys, "--model", base, "--prompt", "The wind ", "--max-new-tokens", 7)
    assert report.startswith("7 tokens in ")
    _, report = generated(capsys, "--model", base, "--prompt", "The wind ", "--max-new-tokens", 1)
    assert report.startswith("1 token in ")


@pytest.mark.parametrize(
    ("options", "noted"),
    [([], True), (["--sinks", 3], True), (["--window", 20], False), (["--max-new-tokens", 3], False)],
)
def test_a_text_beyond_the_models_positions_is_noted(base, capsys, options, noted):
    """The model has 128 positions, and the sink cache with its window of 252 leaves them as well."""
    assert course("generate", "--model", base, "--prompt", "The keeper", "--max-new-tokens", 125, *options) == 0
    said = "may have 135 tokens, and the model was trained for 128" in capsys.readouterr().err
    assert said == noted


def test_prepared_weights(base, capsys):
    plain, _ = generated(capsys, "--model", base, "--prompt", "The ", "--max-new-tokens", 8)
    prepared, _ = generated(capsys, "--model", base, "--prompt", "The ", "--max-new-tokens", 8, "--weights", "float32")
    assert plain == prepared


@pytest.mark.slow
@pytest.mark.skipif(missing_compiler() is not None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_give_the_same_text_and_their_time_is_said(base, capsys):
    words = ["--model", base, "--prompt", "The ", "--max-new-tokens", 8]
    plain, _ = generated(capsys, *words)
    compiled, report = generated(capsys, *words, "--compile")
    assert compiled == plain
    assert re.search(r"tokens/s, cache static; compiling took [\d.]+ s before$", report)


def test_what_cannot_be_compiled_is_refused_before_anything_is_loaded(monkeypatch, capsys):
    words = ["generate", "--model", "no-such-model", "--prompt", "The ", "--compile"]
    assert course(*words, "--max-pages", 6) == 2
    assert "--compile is for --cache static, and the cache is paged." in capsys.readouterr().err
    assert course(*words, "--device", "cuda") == 2
    assert "--compile is for --device cpu, and the device is cuda." in capsys.readouterr().err
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert course(*words) == 2
    assert "needs a C++ compiler, and there is no no-such-compiler here" in capsys.readouterr().err


def test_what_is_prepared_stays_on_the_cpu(monkeypatch):
    """--device auto is the GPU where there is one, but for a model that is prepared for a CPU."""
    from course_lib.commands import prepared_on

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepared_on("auto", None) == "cuda"
    assert prepared_on("auto", "int8") == "cpu"
    assert prepared_on("cpu", None) == "cpu"
    with pytest.raises(CourseError, match="There is no device 'gpu' here"):
        prepared_on("gpu", None)


def test_an_adapter_finds_its_base(base, adapter, capsys):
    changed, _ = generated(capsys, "--adapter", adapter("notes"), "--prompt", "The ", "--max-new-tokens", 20)
    plain, _ = generated(capsys, "--model", base, "--prompt", "The ", "--max-new-tokens", 20)
    assert changed != plain


def test_an_adapter_on_another_base_is_noted(base, adapter, capsys):
    elsewhere = adapter("b", base_name="/home/ada/base")
    options = ["--prompt", "The ", "--max-new-tokens", 2]
    assert course("generate", "--model", base, "--adapter", elsewhere, *options) == 0
    assert f"note: {elsewhere} was trained on /home/ada/base, and is put on {base} here" in capsys.readouterr().err
    assert course("generate", "--model", base, "--adapter", adapter("notes"), *options) == 0
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "static", "--max-pages", "3"], "--max-pages belongs to --cache paged, and the cache is static"),
        (["--window", "3", "--page-size", "3"], "--window belongs to --cache sink, and the cache is paged"),
        (["--top-p", "0"], "top_p is 0.0; it has to be above 0 and at most 1"),
        (["--max-new-tokens", "0"], "--max-new-tokens has to be at least 1"),
        (["--adapter", "nowhere"], "There is no adapter nowhere"),
        (["--max-new-tokens", "99999999999"], "GB are free. Give a smaller --max-new-tokens"),
        (["--max-new-tokens", "99999999999", "--max-pages", "3"], "GB are free"),
        (["--seed", str(2**64), "--temperature", "1"], "it has to have at most 64 bits"),
        (["--stop", ""], "A --stop text is empty"),
        (["--stop", "\udcff"], "--stop holds bytes that are not UTF-8"),
    ],
)
def test_what_is_refused(base, capsys, options, message):
    assert course("generate", "--model", base, "--prompt", "The ", *options) == 2
    assert message in capsys.readouterr().err
