"""What PEFT does that changes a result and raises nothing."""

import copy

import pytest
import torch
from peft import BOFTConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter

IDS = torch.arange(3, 13)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def off(one, other):
    return (one - other).abs().max().item()


def lora(**options):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": False} | options)


@pytest.mark.library(
    package="PEFT",
    happens='`target_modules="o_proj|v_proj"` adapts nothing: a string is a regular expression for the whole path',
    expected="A string means what a list of that one name means.",
    instead='Write a list, `["q_proj"]`, or begin the expression with `.*`. A bare name raises at least; an expression '
    "that matches too little does not, so count the adapted layers.",
    chapter="03_lora",
)
def test_a_string_is_an_expression_for_the_whole_path(tiny_llama):
    with pytest.raises(Exception, match="(?i)target modules"):
        get_peft_model(copy.deepcopy(tiny_llama), lora(target_modules="o_proj|v_proj"))

    def adapted(targets):
        model = get_peft_model(copy.deepcopy(tiny_llama), lora(target_modules=targets))
        return sum(name.endswith("lora_A") for name, _ in model.named_modules())

    assert adapted(["o_proj", "v_proj"]) == 4
    assert adapted(r".*o_proj|model\.layers\.0\.self_attn\.v_proj") == 3  # the second half misses layer 1


@pytest.mark.library(
    package="PEFT",
    happens="`rank_pattern` changes the scaling too: the common `lora_alpha` is divided by the layer's own rank",
    expected="A layer with another rank keeps the strength of the others.",
    instead="Give the layer an entry in `alpha_pattern` as well.",
    chapter="03_lora",
)
def test_a_rank_pattern_moves_the_scaling(tiny_llama):
    model = get_peft_model(tiny_llama, lora(r=8, lora_alpha=16, rank_pattern={"layers.1.self_attn.q_proj": 4}))
    scaling = [layer.self_attn.q_proj.scaling["default"] for layer in model.base_model.model.model.layers]
    assert scaling == [2.0, 4.0]


@pytest.mark.library(
    package="PEFT",
    happens="`PeftModel.from_pretrained(..., r=8, lora_alpha=1)` ignores both settings",
    expected="What is given in the call wins over the file, or is refused.",
    instead="Pass a changed `LoraConfig` as `config=`. Any other keyword is ignored silently, a misspelt one too.",
    chapter="03_lora",
)
def test_settings_in_the_call_are_ignored(tiny_llama, tmp_path):
    get_peft_model(copy.deepcopy(tiny_llama), lora()).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_llama, tmp_path, r=8, lora_alpha=1, nonsense=5)
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_alpha) == (4, 8)


@pytest.mark.library(
    package="PEFT",
    happens="An adapter file whose names do not fit loads with a warning, and the model is the base",
    expected="Loading an adapter without a single matching tensor is an error.",
    instead="Compare the logits with the base's once after loading, or load with "
    "`course_lib.adapters.load_adapter`, which "
    "refuses such a file.",
    chapter="03_lora",
)
def test_misnamed_weights_are_only_a_warning(tiny_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    before = logits(tiny_llama)
    get_peft_model(copy.deepcopy(tiny_llama), lora()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query"): t for name, t in load_file(file).items()}, file)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
    with pytest.warns(UserWarning, match="missing adapter keys"):
        model = PeftModel.from_pretrained(tiny_llama, tmp_path)
    assert torch.equal(logits(model), before)


@pytest.mark.library(
    package="PEFT",
    happens="Wrapping an adapted model again under the same name replaces the trained adapter by a fresh one",
    expected="`get_peft_model` on a model that has an adapter keeps it, or raises.",
    instead="Use `add_adapter` with another name on the `PeftModel`, or `unload()` first.",
    chapter="04_merging",
)
def test_wrapping_twice_forgets(tiny_llama):
    before = logits(tiny_llama)
    adapted = get_peft_model(tiny_llama, lora())
    assert off(logits(adapted), before) > 1e-3
    with pytest.warns(UserWarning, match="second time"):
        again = get_peft_model(tiny_llama, lora(init_lora_weights=True))
    assert off(logits(again), before) < 1e-6


@pytest.mark.library(
    package="PEFT",
    happens="A linear combination of two adapters is not the sum of their changes",
    expected="`add_weighted_adapter` with the weights 0.5 and 0.5 gives half of each change; twice the same adapter "
    "gives "
    "that adapter.",
    instead='The matrices are added, not their products, which makes cross terms. Use `combination_type="cat"`, '
    "which is "
    "exact, or `course_lib.adapters.combine_adapters`.",
    chapter="04_merging",
)
def test_linear_combinations_have_cross_terms(tiny_llama):
    model = get_peft_model(tiny_llama, lora(), adapter_name="a")
    model.add_adapter("b", lora())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    wanted = 0.5 * layer.get_delta_weight("a") + 0.5 * layer.get_delta_weight("b")
    for kind in ("linear", "cat"):
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind)
    size = wanted.norm()
    assert (layer.get_delta_weight("cat") - wanted).norm() / size < 1e-5
    assert (layer.get_delta_weight("linear") - wanted).norm() / size > 0.3
    model.add_adapter("twin", lora())
    twin = {name: p for name, p in model.named_parameters() if ".twin." in name}
    for name, parameter in twin.items():
        parameter.data = model.get_parameter(name.replace(".twin.", ".a.")).data.clone()
    model.add_weighted_adapter(["a", "twin"], [0.5, 0.5], "doubled", combination_type="linear")
    ratio = layer.get_delta_weight("doubled").norm() / layer.get_delta_weight("a").norm()
    assert ratio.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.library(
    package="PEFT",
    happens="Combining rank-stabilised adapters multiplies them by the square root of the rank",
    expected="One adapter with the weight 1 gives the same adapter again.",
    instead="Combine them with `course_lib.adapters.combine_adapters`, or set `lora_alpha` of the result to "
    "the square root of its rank.",
    chapter="04_merging",
)
def test_weighted_rslora_is_too_large(tiny_llama):
    model = get_peft_model(tiny_llama, lora(use_rslora=True), adapter_name="a")
    model.add_weighted_adapter(["a"], [1.0], "again", combination_type="linear")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    ratio = layer.get_delta_weight("again").norm() / layer.get_delta_weight("a").norm()
    assert ratio.item() == pytest.approx(4**0.5, rel=1e-3)


@pytest.mark.library(
    package="PEFT",
    happens="A forward pass inside `disable_adapter` leaves a merged model unmerged afterwards",
    expected="Behind the block the model is as it was before it: merged.",
    instead="Merge again after the block, or measure the base before merging.",
    chapter="04_merging",
)
def test_disabling_a_merged_adapter_unmerges_it(tiny_llama):
    model = get_peft_model(tiny_llama, lora())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    model.merge_adapter()
    with model.disable_adapter():
        logits(model)
    assert not layer.merged


@pytest.mark.library(
    package="PEFT",
    happens="Merging and unmerging does not give the base's weights back to the bit",
    expected="`unmerge_adapter` undoes `merge_adapter`.",
    instead="The change is added and subtracted in floating point. Keep the base if you need it exact; the course's "
    "`unmerge` restores a stored copy.",
    chapter="04_merging",
)
def test_unmerging_is_not_exact(tiny_llama):
    model = get_peft_model(tiny_llama, lora())
    weight = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    before = weight.detach().clone()
    model.merge_adapter()
    model.unmerge_adapter()
    assert 0.02 < (weight != before).float().mean() < 0.98
    torch.testing.assert_close(weight, before, atol=1e-5, rtol=0)


@pytest.mark.library(
    package="PEFT",
    happens="`unload()` keeps the trained copy of a module from `modules_to_save`",
    expected="`unload()` gives the base back.",
    instead="Load the base again. `disable_adapter()` is right.",
    chapter="03_lora",
)
def test_unload_keeps_modules_to_save(tiny_llama):
    before = logits(tiny_llama)
    model = get_peft_model(tiny_llama, lora(modules_to_save=["lm_head"]))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert off(logits(model.unload()), before) > 1e-3


@pytest.mark.library(
    package="PEFT",
    happens="Training the embedding of a tied model unties it: only one of the two uses gets the new rows",
    expected='With `modules_to_save=["embed_tokens"]` the output layer, which is the same tensor, moves along.',
    instead="Set `ensure_weight_tying=True`, or use `trainable_token_indices` for a few new tokens.",
    chapter="06_sft",
)
def test_a_tied_embedding_is_untied(tiny_llama):
    from transformers import LlamaForCausalLM

    config = tiny_llama.config.__class__(**{**tiny_llama.config.to_dict(), "tie_word_embeddings": True})
    tied = LlamaForCausalLM(config)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    model = get_peft_model(tied, lora(modules_to_save=["embed_tokens"])).base_model.model
    trained = model.model.embed_tokens.modules_to_save["default"].weight
    assert trained.requires_grad
    assert model.lm_head.weight.data_ptr() != trained.data_ptr()
    assert not model.lm_head.weight.requires_grad


@pytest.mark.library(
    package="PEFT",
    happens="OFT is not orthogonal by default",
    expected="Orthogonal fine-tuning multiplies by orthogonal matrices, so singular values stay.",
    instead="The default, `use_cayley_neumann=True`, cuts a series off and is orthogonal only near zero. Set it to "
    "False.",
    chapter="03_lora",
)
def test_oft_is_a_cut_series(tiny_llama):
    def defect(**options):
        torch.manual_seed(0)
        config = OFTConfig(oft_block_size=32, target_modules=["q_proj"], **options)
        model = get_peft_model(copy.deepcopy(tiny_llama), config)
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        before = torch.linalg.svdvals(layer.base_layer.weight)
        torch.nn.init.normal_(layer.oft_R["default"].weight, std=0.1)
        merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
        return off(torch.linalg.svdvals(merged), before) / before.max().item()

    assert defect() > 0.01
    assert defect(use_cayley_neumann=False) < 1e-4


@pytest.mark.library(
    package="PEFT",
    happens="Without its CUDA extension, BOFT runs with one factor whatever the configuration says",
    expected="`boft_n_butterfly_factor=2` trains two factors, or raises.",
    instead="Compare methods on the hardware that they need. The saved configuration still says 2.",
    chapter="03_lora",
)
@pytest.mark.filterwarnings("ignore")
def test_boft_has_one_factor(tiny_llama, monkeypatch):
    from peft.tuners.boft import layer

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: None)  # as on a machine without CUDA
    config = BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=["q_proj"])
    model = get_peft_model(tiny_llama, config)
    shapes = {tuple(p.shape) for name, p in model.named_parameters() if "boft_R" in name}
    assert shapes == {(1, 8, 4, 4)}
    assert model.peft_config["default"].boft_n_butterfly_factor == 2


@pytest.mark.library(
    package="PEFT",
    happens='An adapter made with `init_lora_weights="pissa_niter_1"` is another model each time it is loaded',
    expected="A saved adapter comes back as it was.",
    instead='Use `"pissa"`, whose decomposition can be repeated, or convert the adapter to plain LoRA when saving '
    "(`path_initial_model_for_weight_conversion`).",
    chapter="03_lora",
)
def test_a_random_decomposition_is_repeated_with_another_seed(tiny_llama, tmp_path):
    def reloaded(kind, seed):
        torch.manual_seed(seed)
        return logits(PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path / kind))

    for kind in ("pissa", "pissa_niter_1"):
        model = get_peft_model(copy.deepcopy(tiny_llama), lora(init_lora_weights=kind))
        saved = logits(model)
        model.save_pretrained(tmp_path / kind)
        distance = max(off(reloaded(kind, seed), saved) for seed in (1, 2)) / saved.abs().max().item()
        assert (distance < 1e-4) == (kind == "pissa"), (kind, distance)


def swapped_models(model, tmp_path, **second):
    """Models on `model`: with a second adapter loaded, and with a first one for which it was swapped in."""
    for name, options in (("first", {}), ("second", second)):
        get_peft_model(copy.deepcopy(model), lora(**options)).save_pretrained(tmp_path / name)
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "second")
    swapped = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "first")
    hotswap_adapter(swapped, str(tmp_path / "second"), "default", torch_device="cpu")
    return loaded, swapped


@pytest.mark.library(
    package="PEFT",
    happens="After `hotswap_adapter`, `save_pretrained` writes the new weights with the old rank and alpha",
    expected="What is saved is the adapter that was swapped in.",
    instead="Copy the `adapter_config.json` of the adapter that was swapped in. With another alpha the folder loads as "
    "another model without a word, with another rank not at all.",
    chapter="03_lora",
)
def test_a_swapped_adapter_is_saved_with_the_old_settings(tiny_llama, tmp_path):
    loaded, swapped = swapped_models(tiny_llama, tmp_path, lora_alpha=64)
    assert off(logits(loaded), logits(swapped)) < 1e-5
    swapped.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path / "again")
    assert again.peft_config["default"].lora_alpha == 8
    assert off(logits(loaded), logits(again)) > 1e-2


@pytest.mark.library(
    package="PEFT",
    happens="`hotswap_adapter` ignores `rank_pattern`: the layers with a rank of their own get a wrong scaling",
    expected="It gives the model that `from_pretrained` gives, or refuses, as it does for `alpha_pattern`.",
    instead="Load such an adapter by `load_adapter` under a name of its own.",
    chapter="03_lora",
)
def test_a_swap_ignores_the_rank_pattern(tiny_llama, tmp_path):
    models = swapped_models(tiny_llama, tmp_path, rank_pattern={"layers.1.self_attn.q_proj": 8})
    assert [m.base_model.model.model.layers[1].self_attn.q_proj.scaling["default"] for m in models] == [1.0, 2.0]
    assert off(*map(logits, models)) > 1e-3
