"""What torch does on a CPU that changes a training run and raises nothing."""

import io

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.utils.data import DataLoader


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


@pytest.mark.library(
    package="torch",
    happens="Clipping float16 gradients can set all of them to zero",
    expected="Finite gradients are scaled down to the norm that was asked for.",
    instead="The norm is computed in float16 and overflows above 65,504. Keep gradients in float32 (autocast does), or "
    "clip with `course_lib.training.clipping`, which adds in a wider type.",
    chapter="02_full_finetuning",
)
def test_clipping_float16_erases():
    (parameter,) = with_gradients(torch.full((1_000_000,), 100.0, dtype=torch.float16))
    assert nn.utils.clip_grad_norm_([parameter], 1.0).isinf()
    assert parameter.grad.abs().max() == 0


@pytest.mark.library(
    package="torch",
    happens="One infinite gradient makes `clip_grad_norm_` set all others to zero, and one NaN makes them all NaN",
    expected="Clipping leaves the finite gradients usable, or raises.",
    instead="Look at the norm that it returns, and stop where it is not finite, as the course's Trainer does. "
    "`error_if_nonfinite=True` raises before anything is changed.",
    chapter="02_full_finetuning",
)
def test_clipping_with_a_bad_gradient():
    bad, good = with_gradients(torch.tensor([float("inf")]), torch.tensor([2.0]))
    nn.utils.clip_grad_norm_([bad, good], 1.0)
    assert good.grad.item() == 0.0
    assert bad.grad.isnan().all()
    bad, good = with_gradients(torch.tensor([float("nan")]), torch.tensor([2.0]))
    nn.utils.clip_grad_norm_([bad, good], 1.0)
    assert good.grad.isnan().all()


@pytest.mark.library(
    package="torch",
    happens="In bfloat16, AdamW's second moment never decays",
    expected="An outlier of the gradient is forgotten after a few thousand steps, as in float32.",
    instead="0.999 times a bfloat16 number rounds back to that number. Keep the parameters (and with them the "
    "moments) in "
    "float32 and compute in bfloat16 under autocast, or use `MasterWeightAdamW` of `course_lib.training`.",
    chapter="02_full_finetuning",
)
def test_the_second_moment_is_stuck_in_bfloat16():
    def second_moment(dtype):
        parameter = nn.Parameter(torch.ones(4, dtype=dtype))
        optimizer = torch.optim.AdamW([parameter], lr=1e-3)
        for step in range(600):
            parameter.grad = torch.full((4,), 10.0 if step == 0 else 0.1, dtype=dtype)
            optimizer.step()
        return optimizer.state[parameter]["exp_avg_sq"][0].item()

    assert second_moment(torch.float32) == pytest.approx(0.1 * 0.999**599 + 0.01 * (1 - 0.999**599), rel=1e-2)
    assert second_moment(torch.bfloat16) == pytest.approx(0.1, rel=0.01)


@pytest.mark.library(
    package="torch",
    happens="`load_state_dict` rounds an optimiser's float32 state to bfloat16 where the parameter is bfloat16",
    expected="An optimiser's state comes back from a checkpoint in the types that it had.",
    instead="Every tensor of the state but `step` is cast to its parameter's type. An optimiser with float32 master "
    "weights has to read its state itself, as `MasterWeightAdamW` of `course_lib.training` does.",
    chapter="02_full_finetuning",
)
def test_master_weights_are_rounded():
    def loaded(dtype):
        parameter = nn.Parameter(torch.ones(1, dtype=dtype))
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        state = optimizer.state_dict() | {"state": {0: {"momentum_buffer": torch.tensor([1.001])}}}
        optimizer.load_state_dict(state)
        return optimizer.state[parameter]["momentum_buffer"]

    assert loaded(torch.float32).item() == pytest.approx(1.001)
    assert loaded(torch.bfloat16).item() == 1.0


@pytest.mark.library(
    package="torch",
    happens="The norm of a large tensor is too small on a CPU",
    expected="A norm is as exact as a sum.",
    instead="The squares are added one after another into a few float32 numbers. Add in a wider type, "
    "`x.double().norm()`, or clip with `course_lib.training.clipping`. The error is 4e-4 at ten million entries and "
    "1 % "
    "at a hundred million.",
    chapter="02_full_finetuning",
)
def test_the_norm_of_ten_million_numbers():
    numbers = torch.randn(10_000_000, generator=torch.Generator().manual_seed(0))
    exact = numbers.double().norm().item()
    assert (numbers * numbers).sum().sqrt().item() == pytest.approx(exact, rel=1e-6)
    assert numbers.norm().item() < exact * (1 - 1e-4)


@pytest.mark.library(
    package="torch",
    happens="Under `autocast('cpu')`, `cross_entropy` is float32 and `log_softmax` stays bfloat16",
    expected="Log-probabilities from `log_softmax` and `gather` are as exact as the loss from the same logits.",
    instead="Call `.float()` on the logits before `log_softmax`, above all where log-probabilities are subtracted from "
    "each other, as in DPO.",
    chapter="07_preferences",
)
def test_log_softmax_under_autocast():
    logits, labels = torch.randn(4, 9).bfloat16(), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nn.functional.cross_entropy(logits, labels).dtype == torch.float32
        assert logits.log_softmax(-1).dtype == torch.bfloat16
    assert logits.float().log_softmax(-1).dtype == torch.float32


@pytest.mark.library(
    package="torch",
    happens="`torch.save` of one row of a matrix writes the whole matrix",
    expected="A file holds the numbers of the tensor that was saved.",
    instead="Save `row.clone()`, or use safetensors, which writes only the view.",
    chapter="03_lora",
)
def test_a_view_saves_its_storage():
    matrix = torch.zeros(500, 500)

    def size(tensor):
        file = io.BytesIO()
        torch.save(tensor, file)
        return len(file.getvalue())

    assert size(matrix[0]) > 500 * 500 * 4 > 100 * size(matrix[0].clone())


@pytest.mark.library(
    package="torch",
    happens="Walking over a `DataLoader` moves the global generator, also without shuffling and without workers",
    expected="An evaluation, without dropout and in the order of the rows, does not change the training around it.",
    instead="With dropout, runs that are evaluated at other steps end in other weights, with the Trainer of "
    "transformers too. Give the loader a `generator` of its own; `course_lib.evaluation` leaves the global one alone.",
    chapter="02_full_finetuning",
)
def test_a_loader_draws_from_the_global_generator():
    def state_after(**settings):
        torch.manual_seed(0)
        assert len(list(DataLoader(range(4), batch_size=2, **settings))) == 2
        return torch.get_rng_state()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert not torch.equal(state_after(), before)
    assert torch.equal(state_after(generator=torch.Generator()), before)


@pytest.mark.library(
    package="torch.distributed",
    happens="`get_state_dict` of a fresh optimiser leaves a step behind: AdamW's first update is 0.74 times as long",
    expected="Reading a state for a checkpoint changes nothing.",
    instead="Read the state after the first step only, or `optimizer.state_dict()`, as the course's checkpoints do.",
    chapter="02_full_finetuning",
)
def test_reading_a_fresh_optimizer_steps_it():
    def first_update(read):
        parameter = nn.Linear(1, 1, bias=False)
        nn.init.ones_(parameter.weight)
        optimizer = torch.optim.AdamW(parameter.parameters(), lr=1e-2, weight_decay=0)
        read(parameter, optimizer)
        assert parameter.weight.item() == 1
        parameter(torch.ones(1)).backward()
        optimizer.step()
        return 1 - parameter.weight.item()

    assert first_update(lambda model, optimizer: optimizer.state_dict()) == pytest.approx(0.01, rel=1e-3)
    assert first_update(get_state_dict) == pytest.approx(0.00744, rel=1e-2)


class Tied(nn.Module):
    """A language model without its middle: the output matrix is the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


@pytest.mark.library(
    package="torch",
    happens="After `load_state_dict(assign=True)` a tied embedding is two parameters in one memory: both are updated",
    expected="The model is tied, as after copying, or has two matrices.",
    instead="Tie again before the optimiser is made, by `head.weight = embedding.weight` or `tie_weights()`.",
    chapter="02_full_finetuning",
)
def test_assigning_unties_without_a_sign():
    torch.manual_seed(0)
    state = Tied().state_dict()
    copied, assigned = Tied(), Tied()
    copied.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assigned.load_state_dict(state, assign=True)
    assert [len(list(model.parameters())) for model in (copied, assigned)] == [1, 2]
    assert assigned.head.weight.data_ptr() == assigned.embedding.weight.data_ptr()
    before = copied.embedding.weight.detach().clone()
    for model in (copied, assigned):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        tokens = torch.arange(16)
        nn.functional.cross_entropy(model(tokens), tokens.flip(0)).backward()
        optimizer.step()
    once, twice = ((model.embedding.weight - before).norm().item() for model in (copied, assigned))
    assert twice > 1.2 * once
