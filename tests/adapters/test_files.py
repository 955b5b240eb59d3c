"""Adapter files: what comes back, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from course_lib.adapters import inject_lora, load_adapter, lora_layers, save_adapter
from course_lib.errors import CourseError


@pytest.fixture
def adapted(tiny_llama):
    base = copy.deepcopy(tiny_llama)
    inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=4, alpha=12)
    for _, layer in lora_layers(tiny_llama):
        nn.init.normal_(layer.B)
    return base, tiny_llama


def test_round_trip(adapted, tmp_path):
    base, model = adapted
    save_adapter(model, tmp_path)
    tokens = torch.arange(12)[None]
    load_adapter(base, tmp_path)
    assert torch.equal(base(tokens).logits, model(tokens).logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_adapters_switch_on_one_base(adapted, tmp_path):
    base, model = adapted
    tokens = torch.arange(12)[None]
    save_adapter(model, tmp_path / "first")
    first = model(tokens).logits
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.B)
    save_adapter(model, tmp_path / "second")
    for name, expected in [("first", first), ("second", model(tokens).logits.clone()), ("first", first)]:
        load_adapter(base, tmp_path / name)
        assert torch.equal(base(tokens).logits, expected)


def test_wrong_shape_is_refused_by_name(adapted, tmp_path):
    base, model = adapted
    save_adapter(model, tmp_path)
    inject_lora(base, ["q_proj", "v_proj"], rank=2)
    with pytest.raises(CourseError, match=r"layers\.\d\.self_attn\.[qv]_proj\.lora_[AB]\.weight"):
        load_adapter(base, tmp_path)


def test_another_models_adapter_is_refused(adapted, tmp_path):
    _, model = adapted
    save_adapter(model, tmp_path)
    with pytest.raises(CourseError, match="q_proj"):
        load_adapter(nn.Sequential(nn.Linear(4, 4)), tmp_path)


def test_missing_files_and_nothing_to_save(tiny_llama, tmp_path):
    with pytest.raises(CourseError, match=r"adapter_model\.safetensors"):
        load_adapter(tiny_llama, tmp_path)
    with pytest.raises(CourseError, match="inject_lora"):
        save_adapter(tiny_llama, tmp_path)
