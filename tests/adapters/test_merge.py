"""Merging: exact sums, a restore to the bit, the rounding of bfloat16, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from course_lib.adapters import (
    LoRALinear,
    adapted_layers,
    adapter_names,
    combine_adapters,
    disable_adapters,
    inject_lora,
    lora_layers,
    merge,
    save_merged,
    set_adapter,
    unload,
    unmerge,
)
from course_lib.errors import CourseError
from course_lib.models.fingerprint import fingerprint
from course_lib.models.fused import plain_operations
from course_lib.models.twin import twin

TOKENS = torch.arange(20)[None]


def add(model, targets, rank, name, **options):
    """An adapter as after training: B is not zero."""
    inject_lora(model, targets, rank=rank, name=name, **options)
    for _, layer in lora_layers(model, name):
        nn.init.normal_(layer.adapters[name].B, std=0.1)


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request):
    """Both kinds of layer. `first` and `second` share a part of their layers, and differ in rank and scaling."""
    model = request.getfixturevalue(request.param)
    one, other = ("c_attn", "c_fc") if request.param == "tiny_gpt2" else ("q_proj", "down_proj")
    torch.manual_seed(1)
    add(model, [one], 2, "first", alpha=6)
    add(model, [one, other], 4, "second", use_rslora=True)
    return model


def test_worked_merge_and_restore():
    """W = I, A = [1 1], B = [2 0]^T, scaling 3: W + 3 B A = [[7, 6], [0, 1]], and I again."""
    base = nn.Linear(2, 2, bias=False)
    nn.init.eye_(base.weight)
    model = nn.Sequential(LoRALinear(base, rank=1, alpha=3.0))
    with torch.no_grad():
        model[0].A.copy_(torch.tensor([[1.0, 1.0]]))
        model[0].B.copy_(torch.tensor([[2.0], [0.0]]))
    report = merge(model)
    assert base.weight.tolist() == [[7.0, 6.0], [0.0, 1.0]] == model[0].merged_weight().tolist()
    assert (report.layers, report.max_error, report.mean_change) == (1, 0.0, 12 / 4)
    assert model(torch.tensor([1.0, 4.0])).tolist() == [31.0, 4.0]
    unmerge(model)
    assert base.weight.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_merging_keeps_the_logits_and_unmerging_the_bits(model):
    before = fingerprint(model.parameters())
    with disable_adapters(model):
        base = model(TOKENS).logits
    for name in ("first", "second", "first"):
        set_adapter(model, name)
        logits = model(TOKENS).logits
        merge(model)
        # float32 sums in another order
        torch.testing.assert_close(model(TOKENS).logits, logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits, base, atol=1e-3)
        unmerge(model)
        assert torch.equal(model(TOKENS).logits, logits)
    assert fingerprint(model.parameters()) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subtracting_would_not_restore(dtype):
    """Why the original is kept: a tenth of the entries do not survive (W + D) - D. Ours all do."""
    torch.manual_seed(0)
    base = nn.Linear(128, 128, dtype=dtype)
    nn.init.normal_(base.weight, std=0.02)
    weight, model = base.weight.clone(), nn.Sequential(LoRALinear(base, rank=8, alpha=8))
    nn.init.normal_(model[0].B, std=0.02)
    merge(model)
    subtracted = (base.weight - model[0].delta()).to(dtype)
    assert 0.02 < (subtracted != weight).double().mean() < 0.3
    unmerge(model)
    assert torch.equal(base.weight, weight)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_bfloat16_rounding_is_reported(kind):
    torch.manual_seed(0)
    base = nn.Linear(64, 48) if kind == "linear" else Conv1D(48, 64)
    nn.init.normal_(base.weight, std=0.02)
    base = base.to(torch.bfloat16)
    model = nn.Sequential(LoRALinear(base, rank=4, alpha=4))
    nn.init.normal_(model[0].B, std=0.01)
    wide = base.weight.double()
    delta = model[0].B.double() @ model[0].A.double()
    exact = wide + (delta if kind == "linear" else delta.T)
    report = merge(model)
    error = (base.weight.double() - exact).abs()
    assert base.weight.dtype == torch.bfloat16
    assert report.dtype == "bfloat16"
    # the reference is in float64 here and in float32 there: 1e-9 on errors of 1e-5
    assert report.max_error == pytest.approx(error.max().item(), rel=1e-3)
    assert report.mean_error == pytest.approx(error.mean().item(), rel=1e-3)
    assert report.mean_change == pytest.approx((exact - wide).abs().mean().item(), rel=1e-3)
    # half a unit in the last of 8 bits, at most
    assert 0 < report.max_error <= exact.abs().max().item() * 2**-8


def test_twice_and_nothing(model, tiny_llama):
    with pytest.raises(CourseError, match="not merged"):
        unmerge(model)
    merge(model)
    with pytest.raises(CourseError, match="merged already"):
        merge(model)
    with pytest.raises(CourseError, match="unmerge"):
        set_adapter(model, "first")
    with pytest.raises(CourseError, match="unmerge"):
        inject_lora(model, [next(adapted_layers(model))[0]], name="third")
    unmerge(model)
    with pytest.raises(CourseError, match="not merged"):
        unmerge(model)
    with pytest.raises(CourseError, match="no adapter"):
        merge(unload(model))


@pytest.mark.parametrize("weights", [{"first": 1.0}, {"first": 0.7, "second": -0.4}, {"second": 2.0, "first": 0.0}])
def test_several_merge_to_the_sum_of_their_changes(model, weights):
    deltas = {}
    for path, layer in adapted_layers(model):
        deltas[path] = sum(w * layer.delta(name).double() for name, w in weights.items())
    originals = {path: layer.matrix().double() for path, layer in adapted_layers(model)}
    report = merge(model, weights)
    assert report.layers == (2 if list(weights) == ["first"] else 4)
    assert report.mean_change == pytest.approx(
        torch.cat([delta.abs().flatten() for delta in deltas.values() if delta.any()]).mean().item(), rel=1e-5
    )
    for path, layer in adapted_layers(model):
        torch.testing.assert_close(layer.matrix().double(), originals[path] + deltas[path], rtol=1e-6, atol=1e-6)
    unmerge(model)
    assert all(torch.equal(layer.matrix().double(), originals[path]) for path, layer in adapted_layers(model))


@pytest.mark.parametrize("weights", [{"first": 1.0}, {"first": 0.7, "second": -0.4}])
def test_concatenated_ranks_are_exactly_the_sum(model, weights):
    merge(model, weights)
    summed = model(TOKENS).logits
    unmerge(model)
    combine_adapters(model, weights, "mixed")
    assert adapter_names(model) == ["first", "second", "mixed"]
    ranks = {layer.rank for _, layer in lora_layers(model)}
    assert ranks == ({2} if list(weights) == ["first"] else {2 + 4})
    for _, layer in lora_layers(model):
        expected = sum(w * layer.delta(name) for name, w in weights.items())
        torch.testing.assert_close(layer.delta(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(TOKENS).logits, summed, rtol=1e-5, atol=1e-5)


def test_linear_has_cross_terms():
    """A1 = [1 0], B1 = [1 0]^T, A2 = [0 1], B2 = [0 1]^T, scalings 1, weights 4 and -9.

    A = 2 A1 - 3 A2 = [2 -3], B = 2 B1 + 3 B2 = [2 3]^T: B A = [[4, -6], [6, -9]]; the sum is [[4, 0], [0, -9]].
    """
    model = nn.Sequential(LoRALinear(nn.Linear(2, 2), rank=1, alpha=1.0, name="first"))
    inject_lora(model, ["0"], rank=1, alpha=1.0, name="second")
    with torch.no_grad():
        for name, unit in (("first", [1.0, 0.0]), ("second", [0.0, 1.0])):
            model[0].adapters[name].A.copy_(torch.tensor([unit]))
            model[0].adapters[name].B.copy_(torch.tensor([unit]).T)
    combine_adapters(model, {"first": 4.0, "second": -9.0}, "linear", method="linear")
    assert model[0].delta().tolist() == [[4.0, -6.0], [6.0, -9.0]]
    combine_adapters(model, {"first": 4.0, "second": -9.0}, "cat")
    assert model[0].delta().tolist() == [[4.0, 0.0], [0.0, -9.0]]


def test_combinations_that_are_refused(model):
    both = {"first": 1.0, "second": 1.0}
    for call, message in [
        (lambda: combine_adapters(model, both, "mixed", method="linear"), r"one rank, not of \[2, 4\]"),
        (lambda: combine_adapters(model, both, "mixed", method="svd"), "'cat' or 'linear', not 'svd'"),
        (lambda: combine_adapters(model, {"third": 1.0}, "mixed"), r"\['third'\].*first.*second"),
        (lambda: combine_adapters(model, {}, "mixed"), "At least one"),
        (lambda: combine_adapters(model, both, "first"), "'first' already"),
        (lambda: merge(model, {"third": 1.0}), r"\['third'\]"),
        (lambda: merge(model, {"first": float("nan")}), "finite"),
    ]:
        with pytest.raises(CourseError, match=message):
            call()
    assert adapter_names(model) == ["first", "second"]
    assert not any(layer.merged for _, layer in adapted_layers(model))


def test_a_twin_is_not_merged_with_it(model):
    other = twin(model)
    before = other(TOKENS).logits
    merge(model)
    assert torch.equal(other(TOKENS).logits, before)
    assert not any(layer.merged for _, layer in adapted_layers(other))


def test_a_tied_weight_is_refused(tiny_gpt2):
    add(tiny_gpt2, ["lm_head"], 2, "default")
    with pytest.raises(CourseError, match="lm_head is tied"):
        merge(tiny_gpt2)


@pytest.mark.parametrize("merged", [False, True])
def test_saved_for_plain_transformers(model, tmp_path, merged):
    logits = model(TOKENS).logits
    if merged:
        merge(model)
    save_merged(model, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(plain(TOKENS).logits, logits, rtol=1e-5, atol=1e-5)
    assert not list(adapted_layers(plain))
    assert plain.state_dict().keys() == unload(copy.deepcopy(model)).state_dict().keys()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"], "a leftover of the writing"
    assert adapter_names(model) == ["first", "second"]
    assert any(layer.merged for _, layer in adapted_layers(model)) == merged
    with pytest.raises(CourseError, match="not empty"):
        save_merged(model, tmp_path / "merged")


def test_only_transformers_models_are_saved(tmp_path):
    with pytest.raises(CourseError, match="Sequential"):
        save_merged(nn.Sequential(LoRALinear(nn.Linear(4, 4), rank=1, alpha=1.0)), tmp_path / "merged")


def test_a_merged_model_costs_what_the_base_costs(model):
    """Operations of one pass: the path costs 2 rank (in + out) a token and layer, and merging ends it."""

    def flops():
        with FlopCounterMode(display=False) as counter, plain_operations(), torch.no_grad():
            model(TOKENS)
        return counter.get_total_flops()

    beside = flops()
    with disable_adapters(model):
        base = flops()
    path = sum(2 * layer.rank * (layer.A.shape[1] + layer.B.shape[0]) for _, layer in lora_layers(model))
    assert beside == base + TOKENS.numel() * path
    merge(model)
    assert flops() == base


def test_unload_without_merging_is_the_base(model):
    with disable_adapters(model):
        base = model(TOKENS).logits
    assert torch.equal(unload(model)(TOKENS).logits, base)
    assert not any("base" in name or "adapters" in name for name, _ in model.named_parameters())
