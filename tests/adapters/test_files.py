"""Adapter files: what comes back, and what is refused."""

import copy
import json

import pytest
import torch
from torch import nn

from course_lib.adapters import (
    adapted_layers,
    adapter_names,
    inject_butterfly,
    inject_lora,
    load_adapter,
    lora_layers,
    merge,
    save_adapter,
    set_adapter,
)
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


def test_everything_that_matters_is_in_the_file(tiny_gpt2, tmp_path):
    inject_lora(tiny_gpt2, ["c_attn"], rank=4, alpha=6, lora_dropout=0.1, use_rslora=True)
    tiny_gpt2.config._name_or_path = "gpt2"
    save_adapter(tiny_gpt2, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "gpt2",
        "target_modules": ["c_attn"],
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "use_rslora": True,
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }
    with torch.device("meta"):
        fresh = type(tiny_gpt2)(tiny_gpt2.config)
    load_adapter(fresh, tmp_path)
    layer = next(lora_layers(fresh))[1]
    assert (layer.rank, layer.alpha, layer.dropout.p, layer.scaling) == (4, 6, 0.1, 3.0)
    save_adapter(tiny_gpt2, tmp_path, base_name="my-gpt2")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-gpt2"


def test_only_the_adapted_layers_are_targets(tiny_llama, tmp_path):
    """Both layers' q_proj exist and one is adapted: the file names that one in full."""
    base = copy.deepcopy(tiny_llama)
    names = inject_lora(tiny_llama, r".*layers\.1.*q_proj", rank=2)
    save_adapter(tiny_llama, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == names
    assert load_adapter(base, tmp_path) == names == ["model.layers.1.self_attn.q_proj"]


def test_adapters_are_saved_and_loaded_by_name(adapted, tmp_path):
    base, model = adapted
    inject_lora(model, ["down_proj"], rank=2, name="second")
    for _, layer in lora_layers(model, "second"):
        nn.init.normal_(layer.B)
    tokens = torch.arange(12)[None]
    for name in ("default", "second"):
        save_adapter(model, tmp_path / name, name=name)
        load_adapter(base, tmp_path / name, name=name)
    assert adapter_names(base) == ["default", "second"]
    for name in ("default", "second", "default"):
        set_adapter(base, name)
        set_adapter(model, name)
        assert torch.equal(base(tokens).logits, model(tokens).logits)
    with pytest.raises(CourseError, match=r"'third'.*default.*second"):
        save_adapter(model, tmp_path, name="third")
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_base_with_more_layers_is_refused(adapted, tmp_path):
    """The same widths, one layer more: half an adapter would load without an error of shapes."""
    _, model = adapted
    save_adapter(model, tmp_path)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 3
    deeper = type(model)(config)
    with pytest.raises(CourseError, match=r"layers\.2\.self_attn\.q_proj\.lora_A\.weight is absent there"):
        load_adapter(deeper, tmp_path)
    assert not list(adapted_layers(deeper)), "a refused adapter must leave the model as it was"
    assert all(p.requires_grad for p in deeper.parameters())


def test_a_base_of_another_width_is_refused(adapted, tiny_gpt2, tmp_path):
    _, model = adapted
    save_adapter(model, tmp_path)
    config = copy.deepcopy(model.config)
    config.hidden_size, config.head_dim = 48, 12
    with pytest.raises(CourseError, match=r"q_proj\.lora_A\.weight is \(4, 32\) there and \(4, 48\) here"):
        load_adapter(type(model)(config), tmp_path)
    with pytest.raises(CourseError, match=r"q_proj\.lora_A\.weight is \(4, 32\) there and absent here"):
        load_adapter(tiny_gpt2, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_is_not_read_is_refused(adapted, tmp_path, change, message):
    base, model = adapted
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(CourseError, match=message):
        load_adapter(base, tmp_path)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_file_is_refused(adapted, tmp_path, file):
    base, model = adapted
    save_adapter(model, tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-20])
    with pytest.raises(CourseError, match="damaged"):
        load_adapter(base, tmp_path)


def test_no_loading_into_a_merged_model(adapted, tmp_path):
    _, model = adapted
    save_adapter(model, tmp_path)
    merge(model)
    with pytest.raises(CourseError, match="unmerge"):
        load_adapter(model, tmp_path)


@pytest.mark.parametrize(("stages", "block_size"), [(3, None), (4, 8)])
def test_butterfly_round_trip(tiny_gpt2, tmp_path, stages, block_size):
    base = copy.deepcopy(tiny_gpt2)
    inject_butterfly(tiny_gpt2, ["c_attn", "mlp.c_proj"], stages, block_size)
    for parameter in (p for p in tiny_gpt2.parameters() if p.requires_grad):
        nn.init.normal_(parameter)
    save_adapter(tiny_gpt2, tmp_path)
    tokens = torch.arange(12)[None]
    for _ in range(2):  # onto the bare base, then into the layers that are there
        assert len(load_adapter(base, tmp_path)) == 4
        assert torch.equal(base(tokens).logits, tiny_gpt2(tokens).logits)


def test_butterfly_on_a_wrong_base_is_refused(tiny_llama, tiny_gpt2, tmp_path):
    other = copy.deepcopy(tiny_gpt2)
    inject_butterfly(tiny_gpt2, ["c_attn"], stages=3)
    save_adapter(tiny_gpt2, tmp_path)
    with pytest.raises(CourseError, match=r"c_attn\.butterfly\.angles is \(36,\) there and absent here"):
        load_adapter(tiny_llama, tmp_path)
    inject_butterfly(other, ["c_attn"], stages=2)
    with pytest.raises(CourseError, match=r"\(3, None\), and .*c_attn here has \(2, None\)"):
        load_adapter(other, tmp_path)
    config = copy.deepcopy(tiny_gpt2.config)
    config.n_embd = 32
    with pytest.raises(CourseError, match=r"c_attn\.butterfly\.angles is \(36,\) there and \(48,\) here"):
        load_adapter(type(tiny_gpt2)(config), tmp_path)
