"""LoRA's layer by worked arithmetic, its properties, and the mistakes a user can make."""

import pytest
import torch
from torch import nn

from course_lib.adapters import (
    LoRALinear,
    inject_lora,
    lora_layers,
    lora_parameter_count,
    lora_parameters,
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
        ([(1024, 1024)] * 48, 4, 393_216),  # GPT-2 medium, q and v
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
