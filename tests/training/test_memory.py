"""A backward pass of a large model trims the heap on its way, and leaves nothing behind on the model."""

from types import SimpleNamespace

import pytest
import torch

from course_lib.training import memory


@pytest.fixture
def trims(monkeypatch):
    """The gradients that are there at each call of a `malloc_trim` that only takes notes."""
    seen = []
    parameters = [torch.nn.Parameter(torch.eye(4)) for _ in range(32)]

    def malloc_trim(_):
        seen.append(sum(p.grad is not None for p in parameters))
        return 1  # as glibc's does

    monkeypatch.setattr(memory, "_glibc", lambda: SimpleNamespace(malloc_trim=malloc_trim))
    return SimpleNamespace(seen=seen, parameters=parameters)


def backward(parameters):
    """A chain of matrix products: the last parameter's gradient is complete first."""
    x = torch.ones(1, 4)
    for parameter in parameters:
        x = x @ parameter
    with memory.trimmed_backward(parameters):
        x.sum().backward()


def test_the_heap_is_trimmed_ever_closer_to_the_end(trims, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1)
    backward(trims.parameters)
    assert trims.seen == [16, 24, 28, 30]  # the gradients of parameters 16, 8, 4 and 2 of 0 to 31 have just come
    assert not any(p._post_accumulate_grad_hooks for p in trims.parameters)


def test_a_small_model_is_left_alone(trims):
    backward(trims.parameters)
    assert trims.seen == []
    assert all(p.grad is not None for p in trims.parameters)


def test_without_glibc_it_is_a_plain_pass(trims, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1)
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    backward(trims.parameters)
    assert all(p.grad is not None for p in trims.parameters)
    assert not any(p._post_accumulate_grad_hooks for p in trims.parameters)


def test_an_error_takes_the_hooks_away(trims, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1)
    with pytest.raises(RuntimeError, match="backward"), memory.trimmed_backward(trims.parameters):
        raise RuntimeError("backward")
    assert not any(p._post_accumulate_grad_hooks for p in trims.parameters)
