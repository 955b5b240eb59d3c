"""Which layers a target means, and what a wrapped layer does with its adapter switched off."""

import pytest
import torch
from torch import nn

from course_lib.adapters import adapted_layers, disable_adapters, inject_butterfly, inject_lora, lora_layers, merge
from course_lib.errors import CourseError
from course_lib.models.linear_layers import layer_sizes, linear_layers, matching_layers, select_layers


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["q_proj"], 2),
        (["self_attn.q_proj", "mlp.up_proj"], 4),
        (["model.layers.1.self_attn.q_proj"], 1),
        (["proj"], 0),  # the end of a name's part is no target: names are taken apart at the dots
        (r".*layers\.1\..*(q|v)_proj", 2),
        (r"q_proj", 0),  # a string is a pattern for the whole name
        (r".*_proj", 14),
    ],
)
def test_targets_mean_what_peft_means(tiny_llama, targets, count):
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    ours = set(matching_layers(tiny_llama, targets))
    config = LoraConfig(target_modules=targets)
    assert len(ours) == count
    assert ours == {name for name in linear_layers(tiny_llama) if check_target_module_exists(config, name)}


def test_the_functions_are_still_where_they_were():
    from course_lib.adapters import layers

    assert (layers.matching_layers, layers.select_layers) == (matching_layers, select_layers)
    assert (layers.layer_sizes, layers.linear_layers) == (layer_sizes, linear_layers)


def test_gpt2s_layers_are_found_with_their_sizes(tiny_gpt2):
    sizes = {name: layer_sizes(layer) for name, layer in linear_layers(tiny_gpt2).items()}
    assert sizes["transformer.h.0.attn.c_attn"] == (72, 24)
    assert sizes["lm_head"] == (97, 24)
    assert len(sizes) == 2 * 4 + 1
    inject_lora(tiny_gpt2, ["c_attn"], rank=2)
    assert {name: layer_sizes(layer) for name, layer in linear_layers(tiny_gpt2).items()} == sizes


def test_a_quantised_layer_is_known_by_its_sizes():
    class Quantised(nn.Module):
        in_features, out_features = 6, 5

        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.randint(-2, 3, (5, 6)))

        def forward(self, x):
            return x @ self.codes.T.to(x.dtype)

    model = nn.Sequential(Quantised(), nn.Linear(5, 5))
    x = torch.randn(3, 6)
    before = model(x)
    assert inject_lora(model, ["0"], rank=2) == ["0"]
    assert torch.equal(model(x), before)
    nn.init.ones_(next(lora_layers(model))[1].B)
    assert not torch.equal(model(x), before)
    with pytest.raises(CourseError, match="0 is quantised"):
        merge(model)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["c_attn", "query"], r"named \['query'\].*c_attn.*c_proj.*lm_head"),
        (r"c_attn", r"'c_attn' matches no .*list.*c_attn.*c_fc"),
        (r"(c_attn", "not a regular expression"),
        ([], "empty"),
    ],
)
def test_unknown_targets_are_told_what_there_is(tiny_gpt2, targets, message):
    with pytest.raises(CourseError, match=message):
        select_layers(tiny_gpt2, targets)


@pytest.mark.parametrize("kind", ["lora", "butterfly"])
def test_disabled_is_the_base(tiny_gpt2, kind):
    tokens = torch.arange(12)[None]
    base = tiny_gpt2(tokens).logits
    if kind == "lora":
        inject_lora(tiny_gpt2, ["c_attn"], rank=2)
    else:
        inject_butterfly(tiny_gpt2, ["c_attn"], stages=3)
    for parameter in (p for p in tiny_gpt2.parameters() if p.requires_grad):
        nn.init.normal_(parameter)
    changed = tiny_gpt2(tokens).logits
    with disable_adapters(tiny_gpt2) as model:
        assert torch.equal(model(tokens).logits, base)
        with pytest.raises(IndexError), disable_adapters(model):
            model(tokens + 97)
        assert torch.equal(model(tokens).logits, base), "the inner block must not switch the outer one off"
    assert torch.equal(tiny_gpt2(tokens).logits, changed)
    assert not torch.equal(changed, base)
    merge(tiny_gpt2)
    with pytest.raises(CourseError, match="unmerge"), disable_adapters(tiny_gpt2):
        pass
    assert all(layer.enabled for _, layer in adapted_layers(tiny_gpt2))
