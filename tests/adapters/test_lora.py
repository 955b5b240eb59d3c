"""LoRA's layer by worked arithmetic, its properties, and the mistakes a user can make."""

import copy
import itertools

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from course_lib.adapters import (
    LoRALinear,
    adapter_names,
    disable_adapters,
    inject_lora,
    load_adapter,
    lora_layers,
    lora_parameter_count,
    lora_parameters,
    lora_scaling,
    save_adapter,
    set_adapter,
    unload,
)
from course_lib.errors import CourseError
from course_lib.models.fingerprint import fingerprint
from course_lib.training import next_token_loss


def test_worked_example():
    """W = I, A = [1 1], B = [2 0]^T, alpha/rank = 3: y = x + 3 (x1 + x2) (2, 0)."""
    base = nn.Linear(2, 2, bias=False)
    nn.init.eye_(base.weight)
    layer = LoRALinear(base, rank=1, alpha=3.0)
    with torch.no_grad():
        layer.A.copy_(torch.tensor([[1.0, 1.0]]))
        layer.B.copy_(torch.tensor([[2.0], [0.0]]))
    assert layer(torch.tensor([1.0, 4.0])).tolist() == [31.0, 4.0]
    assert layer.merged_weight().tolist() == [[7.0, 6.0], [0.0, 1.0]]


def test_starts_as_the_base_and_merges_to_what_it_computes():
    torch.manual_seed(0)
    base = nn.Linear(20, 30)
    layer = LoRALinear(base, rank=4, alpha=8.0)
    x = torch.randn(2, 5, 20)
    assert torch.equal(layer(x), base(x))
    assert layer.A.abs().max() <= 20**-0.5
    nn.init.normal_(layer.B)
    # float32 sums of 20 products, two ways round: a few ulps of values around 10
    torch.testing.assert_close(layer(x), x @ layer.merged_weight().T + base.bias, rtol=1e-5, atol=1e-5)


def test_only_the_adapter_learns(tiny_llama):
    before = fingerprint(tiny_llama.parameters())
    names = inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=2, alpha=4)
    assert len(names) == 4
    optimizer = torch.optim.AdamW([p for p in tiny_llama.parameters() if p.requires_grad], lr=0.1)
    tokens = torch.randint(0, 97, (2, 16))
    for _ in range(2):
        next_token_loss(tiny_llama(tokens).logits, tokens).backward()
        optimizer.step()
    assert fingerprint(p for p in tiny_llama.parameters() if not p.requires_grad) == before
    assert all(layer.B.abs().max() > 0 for _, layer in lora_layers(tiny_llama))


def test_count_is_the_formula(tiny_llama):
    inject_lora(tiny_llama, ["q_proj", "v_proj", "down_proj"], rank=3, alpha=6)
    shapes = [tuple(layer.base.weight.shape) for _, layer in lora_layers(tiny_llama)]
    counted = sum(p.numel() for p in lora_parameters(tiny_llama))
    assert counted == lora_parameter_count(shapes, 3) == 2 * 3 * ((32 + 32) + (32 + 16) + (64 + 32))


@pytest.mark.parametrize(
    ("shapes", "rank", "published"),
    [
        ([(2304, 768)] * 12, 8, 294_912),  # GPT-2 small, c_attn
        ([(1024, 1024)] * 48, 4, 393_216),  # GPT-2 medium, q and v: by the formula (the paper states 0.35 M)
        ([(768, 768)] * 24, 8, 294_912),  # RoBERTa base
        ([(1024, 1024)] * 48, 8, 786_432),  # RoBERTa large
        ([(12288, 12288)] * 192, 1, 4_718_592),  # GPT-3 175B
        ([(3072, 3072), (1024, 3072)] * 28, 32, 9_175_040),  # Llama-3.2-3B
    ],
)
def test_published_counts(shapes, rank, published):
    assert lora_parameter_count(shapes, rank) == published


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_impossible_rank(rank):
    with pytest.raises(CourseError, match=f"rank {rank} .*1 to 16"):
        LoRALinear(nn.Linear(16, 32), rank=rank, alpha=1.0)


def test_unknown_target_lists_what_there_is(tiny_llama):
    with pytest.raises(CourseError, match=r"query.*q_proj"):
        inject_lora(tiny_llama, ["q_proj", "query"])
    assert not list(lora_layers(tiny_llama)), "a refused injection must leave the model as it was"
    assert all(p.requires_grad for p in tiny_llama.parameters())


def test_injecting_twice_is_refused(tiny_llama):
    inject_lora(tiny_llama, ["q_proj"])
    with pytest.raises(CourseError, match="already"):
        inject_lora(tiny_llama, ["v_proj"])


def test_bfloat16_base_keeps_a_float32_adapter():
    base = nn.Linear(8, 8, dtype=torch.bfloat16)
    layer = LoRALinear(base, rank=2, alpha=2.0)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert layer.A.dtype == torch.float32
    assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer(x), base(x))


def test_worked_example_on_conv1d():
    """Weight (in, out) = [[1, 0, 2], [0, 1, 0]], bias 1, B = (1, 0, 1)^T, A = (1, 1), scaling 2."""
    base = Conv1D(3, 2)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
        base.bias.fill_(1.0)
    layer = LoRALinear(base, rank=1, alpha=2.0)
    with torch.no_grad():
        layer.A.copy_(torch.tensor([[1.0, 1.0]]))
        layer.B.copy_(torch.tensor([[1.0], [0.0], [1.0]]))
    x = torch.tensor([[1.0, 3.0]])
    assert layer(x).tolist() == [[1 + 1 + 2 * 4, 3 + 1, 2 + 1 + 2 * 4]]
    assert layer.merged_weight().tolist() == [[3.0, 0.0, 4.0], [2.0, 1.0, 2.0]]


@pytest.mark.parametrize(("rank", "rslora", "scaling"), [(4, False, 4.0), (4, True, 8.0), (16, True, 4.0)])
def test_rank_stabilised_scaling(rank, rslora, scaling):
    """alpha 16: 16 / 4, 16 / sqrt(4), 16 / sqrt(16)."""
    layer = LoRALinear(nn.Linear(16, 16), rank=rank, alpha=16.0, use_rslora=rslora)
    assert layer.scaling == scaling == lora_scaling(16.0, rank, rslora)
    nn.init.ones_(layer.B)
    torch.testing.assert_close(layer.delta(), scaling * layer.B @ layer.A, rtol=1e-6, atol=0)


def test_dropout_is_on_the_path_and_in_training_alone():
    torch.manual_seed(0)
    base = nn.Linear(50, 1, bias=False)
    layer = LoRALinear(base, rank=1, alpha=1.0, lora_dropout=0.4)
    nn.init.zeros_(base.weight)
    nn.init.ones_(layer.A)
    nn.init.ones_(layer.B)
    x = torch.ones(2000, 50)
    kept = layer(x) * (1 - 0.4) / 50  # each kept input counts 1 / 0.6
    assert kept.mean().item() == pytest.approx(0.6, abs=0.01)
    assert kept.std() > 0.05
    assert torch.equal(layer.eval()(x), torch.full((2000, 1), 50.0))
    evaluated = nn.Sequential(nn.Linear(4, 4)).eval()
    inject_lora(evaluated, ["0"], rank=1, lora_dropout=0.4)
    assert not any(module.training for module in evaluated.modules()), "injecting must not switch training on"
    for impossible in (-0.1, 1.0):
        with pytest.raises(CourseError, match=str(impossible)):
            LoRALinear(nn.Linear(4, 4), rank=1, alpha=1.0, lora_dropout=impossible)


def test_gpt2_smalls_published_count():
    """Rank 8 on the twelve fused c_attn, on the meta device: the real architecture without its 500 MB."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    names = inject_lora(model, ["c_attn"], rank=8, alpha=16)
    assert names == [f"transformer.h.{i}.attn.c_attn" for i in range(12)]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 294_912
    shapes = [tuple(layer.base.weight.shape) for _, layer in lora_layers(model)]
    assert lora_parameter_count(shapes, 8) == 294_912


def test_an_impossible_rank_leaves_the_model_alone(tiny_llama):
    """k_proj is 16 x 32, the others reach 32: nothing may be injected before the smallest is checked."""
    with pytest.raises(CourseError, match=r"rank 20 .* 16 x 32 .*1 to 16"):
        inject_lora(tiny_llama, ["q_proj", "k_proj"], rank=20)
    assert not list(lora_layers(tiny_llama))
    assert all(p.requires_grad for p in tiny_llama.parameters())


class TestNamedAdapters:
    @pytest.fixture
    def model(self, tiny_llama):
        """Three adapters, on layers that overlap in part."""
        torch.manual_seed(1)
        inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=2, name="first")
        inject_lora(tiny_llama, ["q_proj"], rank=4, alpha=8, name="second")
        inject_lora(tiny_llama, ["down_proj"], rank=3, use_rslora=True, name="third")
        for name in adapter_names(tiny_llama):
            for _, layer in lora_layers(tiny_llama, name):
                nn.init.normal_(layer.adapters[name].B)
        return tiny_llama

    def test_switching_is_exact_and_copies_nothing(self, model):
        assert adapter_names(model) == ["first", "second", "third"]
        tokens, alone = torch.arange(12)[None], {}
        addresses = [p.data_ptr() for p in model.parameters()]
        for name in adapter_names(model):
            set_adapter(model, name)
            alone[name] = model(tokens).logits
        with disable_adapters(model):
            alone["base"] = model(tokens).logits
        for one, other in itertools.combinations(alone, 2):
            assert not torch.allclose(alone[one], alone[other], atol=1e-3), (one, other)
        for name in ("third", "first", "second", "first"):
            set_adapter(model, name)
            assert torch.equal(model(tokens).logits, alone[name])
        assert [p.data_ptr() for p in model.parameters()] == addresses

    def test_one_alone_computes_the_same(self, model, tmp_path):
        """The neighbours on a layer do not matter: each adapter, saved and loaded on a bare base, gives its logits."""
        tokens = torch.arange(12)[None]
        for name in adapter_names(model):
            set_adapter(model, name)
            save_adapter(model, tmp_path / name)
            bare = unload(copy.deepcopy(model))
            load_adapter(bare, tmp_path / name)
            assert torch.equal(bare(tokens).logits, model(tokens).logits)

    def test_only_the_active_one_learns(self, model):
        set_adapter(model, "second")
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {id(p) for p in trained} == {id(p) for p in lora_parameters(model)}
        assert sum(p.numel() for p in trained) == 2 * 4 * (32 + 32)
        before = fingerprint(p for p in model.parameters() if not p.requires_grad)
        tokens = torch.randint(0, 97, (2, 16))
        next_token_loss(model(tokens).logits, tokens).backward()
        torch.optim.AdamW(trained, lr=0.1).step()
        assert fingerprint(p for p in model.parameters() if not p.requires_grad) == before
        assert all(p.grad is not None for p in trained)

    def test_names_that_are_refused(self, model):
        with pytest.raises(CourseError, match=r"'fourth'.*first.*second.*third"):
            set_adapter(model, "fourth")
        with pytest.raises(CourseError, match="'first' already"):
            inject_lora(model, ["q_proj"], name="first")
        for name in ("", "a.b", "keys", "../up"):
            with pytest.raises(CourseError, match="cannot name"):
                inject_lora(model, ["q_proj"], name=name)
        assert adapter_names(model) == ["first", "second", "third"]
