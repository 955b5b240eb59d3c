"""What every test shares: no hub, one thread a worker, small models with random weights, and the real packaged one."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for parity_log: tests are collected without packages

import library_log
from parity_log import ParityLog


def pytest_collection_modifyitems(items):
    """Every test that writes into the parity table is marked `parity`, so that the table can be made by itself."""
    for item in items:
        library_log.check(item)
        if "parity" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.parity)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A passing test of a library's behaviour leaves a line for the book's page, a failing one says what changed."""
    report = yield
    library_log.note(item, report)
    return report


def pytest_terminal_summary(terminalreporter):
    """Say which of the libraries' behaviours no longer hold: the drift run is read from here."""
    if texts := library_log.changed(terminalreporter):
        terminalreporter.section("libraries behave differently now")
        for text in texts:
            terminalreporter.line(text)


@pytest.fixture
def parity(request):
    """Compare with a reference and write the difference down for the book."""
    room = getattr(request.module, "ROOM", request.path.parent.name)
    return ParityLog(request.node.nodeid, room)


@pytest.fixture
def tiny_llama():
    """A Llama with random weights, 2 layers of width 32: the real architecture at a size for milliseconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def smollm2():
    """The packaged SmolLM2 and its tokenizer. Tests must not change it: deepcopy before training."""
    from course_lib.models.pretrained import load

    return load("smollm2-135m-instruct")
