"""Our adapters against PEFT's, on both kinds of layer: files, training, merging, combining, BOFT's rotation."""

import copy
import math

import pytest
import torch
from peft import BOFTConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.boft import layer as boft
from torch import nn
from trained_by_hand import losses_by_hand
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from course_lib.adapters import (
    butterfly_layers,
    butterfly_parameter_count,
    combine_adapters,
    inject_butterfly,
    inject_lora,
    load_adapter,
    lora_layers,
    merge,
    save_adapter,
    save_merged,
    set_adapter,
)
from course_lib.training import Trainer, TrainingConfig

ROOM = "adapters"
SAME_SUMS = "float32: the same products, summed in another order"


@pytest.fixture
def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(params=["Llama", "GPT-2"])
def kind(request):
    return request.param


@pytest.fixture
def base(kind, request):
    return request.getfixturevalue({"Llama": "tiny_llama", "GPT-2": "tiny_gpt2"}[kind])


@pytest.fixture
def targets(kind):
    return {"Llama": ["q_proj", "down_proj"], "GPT-2": ["c_attn", "mlp.c_proj"]}[kind]


@torch.no_grad()
def logits(model):
    return model(torch.arange(40).reshape(2, 20)).logits


def trained(model, targets, **options):
    """Ours on `model`, as after training: B is not zero."""
    inject_lora(model, targets, **options)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.B, std=0.2)
    return model


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_ours(kind, base, targets, rslora, tmp_path, parity):
    ours = trained(copy.deepcopy(base), targets, rank=4, alpha=12, lora_dropout=0.1, use_rslora=rslora)
    save_adapter(ours, tmp_path, base_name="a-base")
    before = logits(base)
    theirs = PeftModel.from_pretrained(base, tmp_path)
    config = theirs.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (4, 12, 0.1, rslora)
    assert config.fan_in_fan_out == (kind == "GPT-2")
    assert config.base_model_name_or_path == "a-base"
    name = f"{kind} logits{', rsLoRA' * rslora}: PEFT loads our file"
    parity.close(name, "PEFT", logits(ours), logits(theirs), 1e-5, SAME_SUMS)
    assert not torch.allclose(logits(ours), before, atol=1e-2), "an adapter that does nothing proves nothing"


@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_pefts(kind, base, targets, rslora, tmp_path, parity):
    ours = copy.deepcopy(base)
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        lora_dropout=0.1,
        use_rslora=rslora,
        target_modules=targets,
        fan_in_fan_out=kind == "GPT-2",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    theirs = get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path)
    assert len(load_adapter(ours, tmp_path)) == 4
    assert {layer.dropout.p for _, layer in lora_layers(ours)} == {0.1}
    name = f"{kind} logits{', rsLoRA' * rslora}: we load PEFT's file"
    parity.close(name, "PEFT", logits(ours.eval()), logits(theirs), 1e-5, SAME_SUMS)


@pytest.mark.parametrize(
    "narrowed", [{"layers_to_transform": [1]}, {"exclude_modules": ["model.layers.0.self_attn.q_proj"]}]
)
def test_we_load_what_peft_narrowed(tiny_llama, narrowed, tmp_path):
    ours = copy.deepcopy(tiny_llama)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, **narrowed)
    theirs = get_peft_model(tiny_llama, config).eval()
    theirs.save_pretrained(tmp_path)
    assert load_adapter(ours, tmp_path) == ["model.layers.1.self_attn.q_proj"]
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)


def test_a_pattern_travels_both_ways(tiny_llama, tmp_path):
    pattern, bases = r".*layers\.1.*(q|v)_proj", [copy.deepcopy(tiny_llama) for _ in range(2)]
    ours = trained(tiny_llama, pattern, rank=2)
    save_adapter(ours, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(bases[0], tmp_path / "ours")
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=1e-5, atol=1e-5)
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == 2

    theirs = get_peft_model(bases[1], LoraConfig(target_modules=pattern, init_lora_weights=False)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    fresh = copy.deepcopy(theirs).unload()
    load_adapter(fresh, tmp_path / "theirs")
    torch.testing.assert_close(logits(fresh), logits(theirs), rtol=1e-5, atol=1e-5)


def test_named_adapters_switch_alike(kind, base, targets, tmp_path, parity):
    ours = trained(copy.deepcopy(base), targets, rank=2, name="first")
    trained(ours, targets[:1], rank=4, use_rslora=True, name="second")
    for name in ("first", "second"):
        save_adapter(ours, tmp_path / name, name=name)
    theirs = PeftModel.from_pretrained(base, tmp_path / "first", adapter_name="first")
    theirs.load_adapter(tmp_path / "second", adapter_name="second")
    seen = []
    for name in ("second", "first", "second"):
        set_adapter(ours, name)
        theirs.set_adapter(name)
        seen.append((logits(ours), logits(theirs)))
    mine, peft = (torch.stack(side) for side in zip(*seen, strict=True))
    parity.close(f"{kind} logits after three switches", "PEFT set_adapter", mine, peft, 1e-5, SAME_SUMS)
    assert not torch.allclose(mine[0], mine[1], atol=1e-2)


def test_same_training_run(kind, base, targets, tmp_path, parity):
    """Thirty steps from the same file: our Trainer on our layers, a plain torch loop on PEFT's."""
    torch.manual_seed(0)
    ours = copy.deepcopy(base)
    inject_lora(ours, targets, rank=4, alpha=8, use_rslora=True)
    save_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    order = torch.randint(0, 97, (30, 2, 16))
    ours.config.attn_pdrop = ours.config.resid_pdrop = ours.config.embd_pdrop = 0.0
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # GPT-2's own: two models draw different masks
    records = Trainer(ours, TrainingConfig(lr=1e-2, warmup_steps=3), log_every=0).train(order)

    parameters = [p for p in theirs.parameters() if p.requires_grad]
    losses = losses_by_hand(theirs, order, lr=1e-2, warmup_steps=3)
    why = "float32 rounding, fed back through thirty updates"
    parity.close(f"{kind} losses of 30 rsLoRA steps", "PEFT", [r.loss for r in records], losses, 1e-4, why)
    assert sum(p.numel() for p in parameters) == sum(p.numel() for p in ours.parameters() if p.requires_grad)


def test_gpt2_smalls_count():
    """294,912 trainable, by both, on the real architecture (on the meta device: no memory)."""
    counts = []
    for inject in (
        lambda m: inject_lora(m, ["c_attn"], rank=8),
        lambda m: get_peft_model(m, LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)),
    ):
        with torch.device("meta"):
            model = GPT2LMHeadModel(GPT2Config())
        inject(model)
        counts.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert counts == [294_912, 294_912]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_like_pefts(kind, base, targets, dtype, tmp_path, parity):
    base = base.to(dtype)
    ours = trained(copy.deepcopy(base), targets, rank=4, alpha=12)
    save_adapter(ours, tmp_path / "adapter")
    save_merged(ours, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    weights = theirs.state_dict()
    assert plain.state_dict().keys() == weights.keys()
    name = f"{kind} {str(dtype).removeprefix('torch.')}"
    differing = sum((tensor != weights[key]).sum().item() for key, tensor in plain.state_dict().items())
    if dtype == torch.bfloat16:
        # not the logits: Module.to rounds Llama's rotary frequencies too, from_pretrained does not
        parity.exact(f"{name}: merged weights, bit for bit", "PEFT merge_and_unload", differing)
    else:
        mine, peft = logits(plain), logits(theirs)
        parity.close(f"{name}: saved merged model's logits", "PEFT merge_and_unload", mine, peft, 1e-5, SAME_SUMS)


@pytest.mark.parametrize("method", ["cat", "linear"])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.5, -0.5)])
def test_combined_like_pefts(kind, base, targets, method, weights, tmp_path, parity):
    """Adapters on different layers and with different scalings; of different ranks where PEFT allows it."""
    ours = trained(copy.deepcopy(base), targets, rank=2, alpha=6, name="first")
    trained(ours, targets[:1], rank=3 if method == "cat" else 2, use_rslora=True, name="second")
    for name in ("first", "second"):
        save_adapter(ours, tmp_path / name, name=name)
    theirs = PeftModel.from_pretrained(base, tmp_path / "first", adapter_name="first")
    theirs.load_adapter(tmp_path / "second", adapter_name="second")
    theirs.add_weighted_adapter(["first", "second"], list(weights), "mixed", combination_type=method)
    theirs.set_adapter("mixed")
    combine_adapters(ours, dict(zip(("first", "second"), weights, strict=True)), "mixed", method)
    name = f"{kind} logits, combined by {method} with {weights[0]:g} and {weights[1]:g}"
    parity.close(name, "PEFT add_weighted_adapter", logits(ours), logits(theirs), 1e-5, SAME_SUMS)
    save_adapter(ours, tmp_path / "mixed", name="mixed")
    for key in theirs.peft_config["mixed"].target_modules:
        assert any(path.endswith(key) for path, _ in lora_layers(ours, "mixed"))
    if method == "cat":
        merge(ours, dict(zip(("first", "second"), weights, strict=True)))
        parity.close(f"{name}, merged", "PEFT add_weighted_adapter", logits(ours), logits(theirs), 1e-5, SAME_SUMS)


class BlockDiagonal:
    """What BOFT's CUDA extension computes, in torch: PEFT trains a single factor without it. (N, D, H, H) blocks."""

    @staticmethod
    def forward(blocks):
        return [torch.stack([torch.block_diag(*row) for row in blocks])]

    @staticmethod
    def backward(grad, blocks):
        size = blocks.shape[-1]
        rows = [[g[i : i + size, i : i + size] for i in range(0, g.shape[0], size)] for g in grad]
        return [torch.stack([torch.stack(row) for row in rows])]


def boft_pairs(layer, rotation):
    """For each of our angles, in order: where BOFT keeps its block (stage, block), and the pair's order in it."""
    place = layer.boft_P.argmax(-1)  # (stages, width): feature i of stage s is row place[s, i] of the block diagonal
    for s, row in enumerate(rotation.sign.tolist()):
        for i in (i for i, sign in enumerate(row) if sign < 0):
            first, second = place[s, i].item(), place[s, rotation.partner[s, i]].item()
            assert first // 2 == second // 2, "PEFT does not pair these two"
            yield s, first // 2, 1 if first < second else -1


@torch.no_grad()
def copy_boft(layer, rotation):
    """BOFT's block is the Cayley transform of [[0, a], [-a, 0]], which turns by -2 atan(a)."""
    blocks = layer.boft_R["default"]
    for k, (s, block, order) in enumerate(boft_pairs(layer, rotation)):
        a = order * (blocks[s, block, 0, 1] - blocks[s, block, 1, 0]).item() / 2
        rotation.angles[k] = -2 * math.atan(a)


@pytest.mark.parametrize("stages", [1, 3])
def test_butterfly_is_boft_with_blocks_of_two(tiny_llama, stages, monkeypatch, parity):
    """On nn.Linear: PEFT 0.21's BOFT has no ``Conv1D``, in spite of its option fan_in_fan_out."""
    monkeypatch.setattr(boft, "_FBD_CUDA", BlockDiagonal)
    ours = copy.deepcopy(tiny_llama)
    targets = ["q_proj", "down_proj"]
    before = logits(tiny_llama)
    config = BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=stages, target_modules=targets)
    theirs = get_peft_model(tiny_llama, config).eval()
    layers = {name: m for name, m in theirs.base_model.model.named_modules() if isinstance(m, boft.Linear)}
    for layer in layers.values():
        nn.init.normal_(layer.boft_R["default"])
    assert set(inject_butterfly(ours, targets, stages)) == set(layers)
    for name, layer in butterfly_layers(ours):
        copy_boft(layers[name], layer.rotation)
    why = "float32: 2 x 2 blocks through a linear solve there, through sine and cosine here"
    parity.close(
        f"Llama logits, butterfly of {stages}", "PEFT BOFT, blocks of 2", logits(ours), logits(theirs), 1e-5, why
    )
    assert not torch.allclose(logits(ours), before, atol=1e-2)
    merge(ours)
    peft = logits(theirs.merge_and_unload())
    parity.close(
        f"Llama logits, butterfly of {stages}, merged", "PEFT BOFT, blocks of 2", logits(ours), peft, 1e-5, why
    )


@pytest.mark.parametrize(("stages", "block_size"), [(6, None), (8, 256)])
def test_counts_against_boft(stages, block_size, monkeypatch):
    """GPT-2's c_attn, 768 to 2304. BOFT stores 2 x 2 numbers where one is free, and a scale for each output."""
    monkeypatch.setattr(boft, "_FBD_CUDA", BlockDiagonal)
    config = BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=stages, target_modules=["0"])
    theirs = get_peft_model(nn.Sequential(nn.Linear(768, 2304)), config)
    stored = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    model = nn.Sequential(nn.Linear(768, 2304))
    inject_butterfly(model, ["0"], stages, block_size)
    ours = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert ours == butterfly_parameter_count(768, stages, block_size) == stages * 768 // 2
    assert stored == 4 * ours + 2304


def test_counts_against_boft_with_larger_blocks(monkeypatch):
    """PEFT's default blocks of 4: m n b stored, of which m n (b - 1) / 2 are free."""
    monkeypatch.setattr(boft, "_FBD_CUDA", BlockDiagonal)
    config = BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=["0"])
    layer = get_peft_model(nn.Sequential(nn.Linear(768, 2304)), config).base_model.model[0]
    assert layer.boft_R["default"].numel() == 2 * 768 * 4
    free = torch.autograd.functional.jacobian(
        lambda r: layer.cayley_batch(r[None]).flatten(), torch.randn(4, 4, dtype=torch.float32)
    ).reshape(16, 16)
    assert torch.linalg.matrix_rank(free, rtol=1e-4) == 4 * 3 // 2


def test_a_width_that_boft_cannot_have(monkeypatch):
    """768 is 3 x 256: BOFT's factors end at eight, ours go on over the full width."""
    monkeypatch.setattr(boft, "_FBD_CUDA", BlockDiagonal)
    config = BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=9, target_modules=["0"])
    with pytest.raises(ValueError, match="Invalid combination of in_features"):
        get_peft_model(nn.Sequential(nn.Linear(768, 4)), config)
    model = nn.Sequential(nn.Linear(768, 4))
    inject_butterfly(model, ["0"], stages=10)
    assert next(butterfly_layers(model))[1].rotation.angles.numel() == 3584


@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "self_attn.c_proj"]])
def test_our_gpt2_and_peft_read_each_others_files(tmp_path, targets, parity):
    """Our decoder's layers are called otherwise than transformers' GPT-2; the files bear transformers' names."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    from course_lib.adapters import inject_lora, load_adapter, lora_layers, save_adapter
    from course_lib.models.huggingface import load_decoder

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=32, n_embd=24, n_layer=2, n_head=3)).eval()
    theirs.save_pretrained(tmp_path / "base")
    ours = load_decoder(tmp_path / "base").eval()
    tokens = torch.randint(0, 90, (2, 20))
    inject_lora(ours, targets, rank=3, alpha=6)
    for _, layer in lora_layers(ours):
        torch.nn.init.normal_(layer.B, std=0.5)
    save_adapter(ours, tmp_path / "ours")
    peft = PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    why = "float32: sums in another order"
    what = f"our GPT-2 decoder's adapter on {' and '.join(targets)}"
    with torch.no_grad():
        parity.close(f"{what}, read by PEFT", "PEFT", ours(tokens).logits, peft(tokens).logits, 1e-5, why)

    names = (
        ["c_attn"]
        if len(targets) == 1
        else [f"transformer.h.{i}.attn.{n}" for i in (0, 1) for n in ("c_attn", "c_proj")]
    )
    config = LoraConfig(r=3, lora_alpha=6, target_modules=names, task_type="CAUSAL_LM", init_lora_weights=False)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    other = get_peft_model(again, config).eval()
    other.save_pretrained(tmp_path / "theirs")
    fresh = load_decoder(tmp_path / "base").eval()
    load_adapter(fresh, tmp_path / "theirs")
    with torch.no_grad():
        parity.close(
            f"PEFT's adapter on {len(names)} names, read by us",
            "PEFT",
            fresh(tokens).logits,
            other(tokens).logits,
            1e-5,
            why,
        )
