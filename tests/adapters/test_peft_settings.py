"""PEFT's settings: adapters of a changed base become plain ones, and what is not read here is named."""

import copy
import dataclasses
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.adapters import disable_adapters, load_adapter, lora_layers, merge, save_adapter, save_merged, unmerge
from course_lib.adapters.files import adapter_config, describe
from course_lib.adapters.peft_settings import DEFAULTS, HARMLESS, UNREADABLE
from course_lib.errors import CourseError
from course_lib.models.pretrained import load_model

TOKENS = torch.arange(12)[None]
QV = ["q_proj", "v_proj"]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of many things that are meant here
        yield


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def saved_by_peft(base, folder, train=True, **settings):
    """An adapter that PEFT made on a copy of `base` and saved. Returns PEFT's model."""
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": QV, "task_type": "CAUSAL_LM"} | settings
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(**settings)).eval()
    if train:
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return theirs


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- adapters of a changed base --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("init", "kind"), [("pissa", "llama"), ("olora", "llama"), ("pissa", "gpt2"), ("pissa", "bfloat16")]
)
def test_adapters_of_a_changed_base(init, kind, rslora, tiny_llama, tiny_gpt2, tmp_path):
    """Untrained they change nothing; trained they do what they do in PEFT; and the base itself stays as it is.

    Float32: the same sums in another order, so 1e-5. In bfloat16 PEFT rounds the remainder of the base, and we do not:
    8 bits of logits of about 1.
    """
    base = tiny_gpt2 if kind == "gpt2" else tiny_llama
    base = base.to(torch.bfloat16) if kind == "bfloat16" else base
    tolerance = 0.02 if kind == "bfloat16" else 1e-5
    settings = {"init_lora_weights": init, "use_rslora": rslora}
    settings |= {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True} if kind == "gpt2" else {}
    before = logits(base)

    saved_by_peft(base, tmp_path / "untrained", train=False, **settings)
    untrained = copy.deepcopy(base)
    load_adapter(untrained, tmp_path / "untrained")
    torch.testing.assert_close(logits(untrained), before, atol=tolerance, rtol=0)

    theirs = saved_by_peft(base, tmp_path / "trained", **settings)
    load_adapter(base, tmp_path / "trained")
    assert (logits(base) - before).abs().max() > 10 * tolerance, "a trained adapter changes something"
    torch.testing.assert_close(logits(base), logits(theirs), atol=tolerance, rtol=0)
    assert next(lora_layers(base))[1].rank == 8  # twice the file's
    with disable_adapters(base):
        assert torch.equal(logits(base), before)
    merge(base)
    torch.testing.assert_close(logits(base), logits(theirs), atol=tolerance, rtol=0)
    unmerge(base)
    with disable_adapters(base):
        assert torch.equal(logits(base), before)


def test_what_it_becomes_is_plain_for_peft_too(tiny_llama, tmp_path):
    """Saved from here, PEFT loads it onto the untouched base; loaded once more here, it replaces itself."""
    theirs = saved_by_peft(tiny_llama, tmp_path / "pissa", init_lora_weights="pissa")
    ours = copy.deepcopy(tiny_llama)
    load_adapter(ours, tmp_path / "pissa")
    save_adapter(ours, tmp_path / "plain")
    plain = PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path / "plain").eval()
    torch.testing.assert_close(logits(plain), logits(theirs), atol=1e-5, rtol=0)
    again = logits(ours)
    load_adapter(ours, tmp_path / "pissa")  # onto the layers that are there
    assert torch.equal(logits(ours), again)
    load_adapter(ours, tmp_path / "plain", name="second")
    torch.testing.assert_close(logits(ours), again, atol=1e-6, rtol=0)


def test_merging_saves_the_model_that_was_trained(tiny_llama, tmp_path):
    theirs = saved_by_peft(tiny_llama, tmp_path / "pissa", init_lora_weights="pissa")
    load_adapter(tiny_llama, tmp_path / "pissa")
    save_merged(tiny_llama, tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "mica", "eva"])
def test_plain_initialisations_go_on_working(init, tiny_llama, tmp_path):
    theirs = saved_by_peft(tiny_llama, tmp_path, init_lora_weights=init)
    load_adapter(tiny_llama, tmp_path)
    torch.testing.assert_close(logits(tiny_llama), logits(theirs), atol=1e-5, rtol=0)
    assert next(lora_layers(tiny_llama))[1].rank == 4


@pytest.mark.parametrize("init", ["pissa_niter_16", "corda", "lora_ga", "loftq", "something_new"])
def test_bases_that_cannot_be_made_again_are_refused(init, tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path)
    change_config(tmp_path, init_lora_weights=init)
    before = copy.deepcopy(tiny_llama.state_dict())
    message = f"init_lora_weights = '{init}'.*path_initial_model_for_weight_conversion"
    with pytest.raises(CourseError, match=message):
        load_adapter(tiny_llama, tmp_path)
    assert tiny_llama.state_dict().keys() == before.keys()


def test_a_randomised_pissa_is_another_base_each_time(tiny_llama, tmp_path):
    """Why it is refused: PEFT itself computes another base when it loads such an adapter."""
    theirs = saved_by_peft(tiny_llama, tmp_path, init_lora_weights="pissa_niter_1")
    torch.manual_seed(1)
    again = PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path).eval()
    assert (logits(again) - logits(theirs)).abs().max() > 1e-4


def test_olora_on_transposed_layers_is_refused(tiny_gpt2, tmp_path):
    saved_by_peft(tiny_gpt2, tmp_path, target_modules=["attn.c_proj"], fan_in_fan_out=True)
    change_config(tmp_path, init_lora_weights="olora")
    with pytest.raises(CourseError, match="'olora' on transformer.h.0.attn.c_proj"):
        load_adapter(tiny_gpt2, tmp_path)


def test_a_quantised_base_is_no_base_to_compute_from(tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path, init_lora_weights="pissa")
    for layer in tiny_llama.model.layers:
        weight = layer.self_attn.q_proj.weight
        layer.self_attn.q_proj.weight = nn.Parameter(weight.detach().to(torch.uint8), requires_grad=False)
    with pytest.raises(CourseError, match="'pissa'.*q_proj is quantised"):
        load_adapter(tiny_llama, tmp_path)


def test_the_listing_says_so(tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path, init_lora_weights="pissa")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert describe(config) == "lora rank 4 alpha 12 init pissa (relative to a changed base)"
    assert describe(config | {"init_lora_weights": "gaussian"}) == "lora rank 4 alpha 12"


# --- which layers ----------------------------------------------------------------------------------------------------


def test_no_targets_and_all_linear(tiny_llama, tiny_gpt2, tmp_path):
    """PEFT writes the names it found; other tools leave null or "all-linear"."""
    for number, (base, targets, given) in enumerate(
        [(tiny_llama, None, QV), (tiny_llama, "all-linear", "all-linear"), (tiny_gpt2, None, ["c_attn"])]
    ):
        theirs = saved_by_peft(base, tmp_path / str(number), target_modules=given)
        change_config(tmp_path / str(number), target_modules=targets)
        ours = copy.deepcopy(base)
        load_adapter(ours, tmp_path / str(number))
        torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
        ours = copy.deepcopy(ours)
        load_adapter(ours, tmp_path / str(number))  # onto the layers that are there
        torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)


def test_half_an_adapter_is_refused(tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path, target_modules="all-linear")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[::2]), tmp_path / "adapter_model.safetensors")
    for targets in ("all-linear", None, json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]):
        change_config(tmp_path, target_modules=targets)
        with pytest.raises(CourseError, match="is absent there and"):
            load_adapter(copy.deepcopy(tiny_llama), tmp_path)


NARROWED = {
    "one block": {"layers_to_transform": [1]},
    "a number": {"layers_to_transform": 0},
    "a pattern": {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    "without a name": {"exclude_modules": ["self_attn.k_proj"]},
    "without a regular expression": {"exclude_modules": r".*layers\.0\..*v_proj"},
    "both": {"layers_to_transform": [0], "exclude_modules": ["v_proj"]},
}


@pytest.mark.parametrize("narrowed", NARROWED)
def test_a_narrowed_adapter_that_lacks_layers_is_refused(narrowed, tiny_llama, tmp_path):
    """The settings say which layers it has, by PEFT's own rule, so half of them cannot go missing in silence."""
    settings = {"target_modules": ["q_proj", "k_proj", "v_proj"], **NARROWED[narrowed]}
    theirs = saved_by_peft(tiny_llama, tmp_path, **settings)
    whole = copy.deepcopy(tiny_llama)
    named = {name.removeprefix("base_model.model.") for name in theirs.targeted_module_names}
    assert set(load_adapter(whole, tmp_path)) == named
    torch.testing.assert_close(logits(whole), logits(theirs), atol=1e-5, rtol=0)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    first = sorted(tensors)[0].rpartition(".lora_")[0]
    save_file({name: t for name, t in tensors.items() if first not in name}, tmp_path / "adapter_model.safetensors")
    bare = copy.deepcopy(tiny_llama)
    with pytest.raises(CourseError, match=f"{first}.lora_A.weight is absent there and"):
        load_adapter(bare, tmp_path)
    assert not dict(lora_layers(bare))


def test_prefixes_of_wrappers_do_not_matter(tiny_llama, tmp_path):
    theirs = saved_by_peft(tiny_llama, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {f"_orig_mod.{key}": tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file)
    load_adapter(tiny_llama, tmp_path)
    torch.testing.assert_close(logits(tiny_llama), logits(theirs), atol=1e-5, rtol=0)


# --- what is not read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] \(whole layers"),
        ({"trainable_token_indices": [1, 5]}, "trainable_token_indices = .*rows of the embedding"),
        ({"use_dora": True}, "use_dora = True"),
        ({"rank_pattern": {"v_proj": 2}}, "rank_pattern"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"target_modules": [*QV, "embed_tokens"]}, "embed_tokens.* an embedding"),
    ],
)
def test_settings_are_named(settings, message, tiny_llama, tmp_path):
    """What PEFT itself writes for each of them; the cure is to merge there."""
    saved_by_peft(tiny_llama, tmp_path, **settings)
    with pytest.raises(CourseError, match=f"{message}.*merge_and_unload"):
        load_adapter(tiny_llama, tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        {"lora_bias": True},
        {"kasa_config": {"beta": 1}},
        {"use_bdlora": {"nblocks": 2}},
        {"target_parameters": ["experts.gate_up_proj"]},
        {"layer_replication": [[0, 2]]},
        {"alora_invocation_tokens": [1]},
        {"monteclora_config": {"samples": 2}},
        {"arrow_config": {"top_k": 1}},
        {"megatron_config": {"x": 1}},
    ],
)
def test_more_settings_are_named(setting, tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path)
    change_config(tmp_path, **setting)
    with pytest.raises(CourseError, match=f"{next(iter(setting))} = "):
        load_adapter(tiny_llama, tmp_path)


def test_settings_of_a_newer_peft_are_said(tiny_llama, tmp_path, capfd):
    """They may change what A and B mean, and nobody here can know."""
    saved_by_peft(tiny_llama, tmp_path)
    load_adapter(tiny_llama, tmp_path, "first")
    assert "unknown here" not in capfd.readouterr().err
    change_config(tmp_path, use_better_lora=True, better_config=None, peft_version="9.1")
    load_adapter(tiny_llama, tmp_path, "second")
    said = f"note: {tmp_path} has settings that are unknown here: use_better_lora = True. It was saved by PEFT 9.1: "
    assert said in capfd.readouterr().err


def test_every_setting_of_this_peft_is_known():
    known = HARMLESS | DEFAULTS.keys() | UNREADABLE.keys()
    assert {each.name for each in dataclasses.fields(LoraConfig)} <= known


def test_lora_on_the_head(tmp_path):
    """PEFT adds the untouched head to the file, since a name in target_modules is that of an embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    theirs = saved_by_peft(base, tmp_path, target_modules=["q_proj", "lm_head"])
    assert "base_model.model.lm_head.base_layer.weight" in load_file(tmp_path / "adapter_model.safetensors")
    ours = copy.deepcopy(base)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
    with torch.no_grad():
        base.lm_head.weight.add_(0.1)
    with pytest.raises(CourseError, match=r"holds base_model.model.lm_head.base_layer.weight \(97, 32\) beside"):
        load_adapter(base, tmp_path)


def test_a_pickle_file_alone(tiny_llama, tmp_path):
    theirs = saved_by_peft(tiny_llama, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    with pytest.raises(CourseError, match=r"adapter_model.bin, a pickle file.*weights_only=True.*save_file") as caught:
        load_adapter(tiny_llama, tmp_path)
    assert "\n" not in str(caught.value)
    state = torch.load(tmp_path / "adapter_model.bin", weights_only=True)  # what the message says
    save_file(state, tmp_path / "adapter_model.safetensors")
    load_adapter(tiny_llama, tmp_path)
    torch.testing.assert_close(logits(tiny_llama), logits(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": "8"}, "damaged: r is '8', and it should be a whole number above 0"),
        ({"r": 0}, "damaged: r is 0"),
        ({"lora_alpha": "x"}, "damaged: lora_alpha is 'x', and it should be a number"),
        ({"lora_dropout": None}, "damaged: lora_dropout is None"),
        ({"target_modules": 5}, "damaged: target_modules is 5"),
        ({"base_model_name_or_path": 5}, "damaged: base_model_name_or_path is 5"),
        ({"peft_type": None}, "damaged: peft_type is None, and it should be a text"),
        ({"peft_type": "IA3"}, "holds an adapter of peft_type = 'IA3', and only LORA and BUTTERFLY are read"),
    ],
)
def test_settings_of_another_kind_are_named(change, message, tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path)
    change_config(tmp_path, **change)
    with pytest.raises(CourseError, match=message):
        load_adapter(tiny_llama, tmp_path)


def test_an_adapter_of_nan_and_a_pointer_are_refused(tiny_llama, tmp_path):
    saved_by_peft(tiny_llama, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] * float("nan")}, path)
    with pytest.raises(CourseError, match=f"holds NaN or infinity in {name}"):
        load_adapter(tiny_llama, tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CourseError, match="is a Git LFS pointer"):
        load_adapter(tiny_llama, tmp_path)


def test_an_adapter_in_a_folder_of_its_own_is_named(tiny_llama, tmp_path):
    """PEFT saves an adapter that is not called "default" into a folder of its name."""
    saved_by_peft(tiny_llama, tmp_path / "first")
    with pytest.raises(CourseError, match=r"adapters in folders of their own \(first\), of which one can"):
        adapter_config(tmp_path)
