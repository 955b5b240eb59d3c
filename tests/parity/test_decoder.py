"""Our decoder against transformers' GPT-2 and Llama, and against the course's own GPT in NumPy: the same weights, the
same logits, within 1e-4 in float32 (what may differ is the order in which kernels add)."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_lib.models.attention import attend_eager, attend_sdpa
from course_lib.models.config import CONFIGS, DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.huggingface import load_decoder, name_in_file, save_decoder
from course_lib.models.onednn import fast_products, is_faster
from course_lib.models.pretrained import load

ROOM = "models"
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def randomised(model):
    """Norms and biases start as ones and zeros; a mistake there would not show before they are something else."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def saved_by_transformers(model, directory):
    randomised(model).save_pretrained(directory)
    return model


def compare(ours, theirs, vocabulary, time=24):
    """Logits of plain rows and of rows padded on either side (there at the tokens that are not padding)."""
    ids = torch.randint(0, vocabulary, (3, time), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, : time // 3], mask[1, time // 2 :] = 0, 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        plain, expected = ours(ids).logits, theirs(ids).logits
        torch.testing.assert_close(plain, expected, **TOLERANCE)
        given = {"attention_mask": mask, "position_ids": positions}
        padded, expected_padded = ours(ids, **given).logits, theirs(ids, **given).logits
        torch.testing.assert_close(padded[mask.bool()], expected_padded[mask.bool()], **TOLERANCE)
    assert expected.std() > 0.05  # logits that are all about zero would agree with anything
    return (plain - expected).abs().max().item()


def noted(parity, what, difference):
    allowed, why = TOLERANCE["atol"], "float32: kernels add in another order"
    parity.within(f"logits, {what}", "transformers", difference, allowed, why, "absolute")


def gpt2_config(config, **changes):
    c = replace(config, **changes)
    return GPT2Config(
        vocab_size=c.vocab_size,
        n_embd=c.hidden_size,
        n_layer=c.num_hidden_layers,
        n_head=c.num_attention_heads,
        n_positions=c.max_position_embeddings,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=c.tie_word_embeddings,
    )


def llama_config(**changes):
    sizes = {
        "vocab_size": 101,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return LlamaConfig(**sizes | changes)


# --- transformers saved it, we load it -----------------------------------------------------------------------------

GPT2_NAMES = ["tiny-gpt", "distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


@pytest.mark.parametrize("name", GPT2_NAMES)
def test_gpt2_of_every_width(name, tmp_path, parity):
    """The published widths and heads; two layers, 64 positions and a small vocabulary keep it quick."""
    config = gpt2_config(CONFIGS[name], num_hidden_layers=2, vocab_size=100, max_position_embeddings=64)
    theirs = saved_by_transformers(GPT2LMHeadModel(config), tmp_path)
    noted(parity, f"width and heads of {name}", compare(load_decoder(tmp_path), theirs, 100))


@pytest.mark.slow
def test_gpt2_at_its_real_shape(tmp_path, parity):
    theirs = saved_by_transformers(GPT2LMHeadModel(gpt2_config(CONFIGS["gpt2"])), tmp_path)
    ours = load_decoder(tmp_path)
    assert sum(p.numel() for p in ours.parameters()) == 124_439_808
    noted(parity, "GPT-2, 124,439,808 parameters", compare(ours, theirs, 50_257, time=12))


LLAMAS = {
    "grouped": {},
    "all heads": {"num_key_value_heads": 8},
    "one shared head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 16},
    "other constants": {
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    },
}


@pytest.mark.parametrize("name", LLAMAS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llama(name, attention, tmp_path, parity):
    theirs = saved_by_transformers(LlamaForCausalLM(llama_config(**LLAMAS[name])), tmp_path)
    difference = compare(load_decoder(tmp_path, attention=attention), theirs, 101)
    noted(parity, f"Llama, {name}, {attention}", difference)


@pytest.mark.weights
def test_real_smollm2(smollm2, parity):
    model, tokenizer = smollm2
    ours = load_decoder("smollm2-135m-instruct")
    assert replace(ours.config, attention="sdpa") == CONFIGS["smollm2-135m"]
    noted(parity, "SmolLM2-135M-Instruct, its real weights", compare(ours, model, 49_152))
    text = tokenizer("The capital of France is Paris, and the capital of Italy is Rome.", return_tensors="pt")
    with torch.no_grad():
        loss, expected = (m(**text, labels=text["input_ids"]).loss for m in (ours, model))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert loss < 3  # it has read such sentences


@pytest.mark.weights
@pytest.mark.skipif(not is_faster(), reason="torch's own products are as fast here")
def test_onednns_products_are_about_as_exact(smollm2):
    """Both are within the rounding of float32, and differ by it: measured against float64."""
    ids = torch.randint(0, 49_152, (2, 36), generator=torch.Generator().manual_seed(1))
    ours = load_decoder("smollm2-135m-instruct")
    with torch.no_grad():
        torchs = ours(ids).logits.double()
        with fast_products():
            found = ours(ids).logits.double()
        exact = ours.double()(ids).logits
    assert not torch.equal(found, torchs)
    assert (found - exact).pow(2).mean() < (4 * (torchs - exact)).pow(2).mean()  # it was 2.3 times


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradients(family, tmp_path):
    """A tensor's gradient under its own name in both models; Conv1D keeps GPT-2's matrices the other way round."""
    theirs = GPT2LMHeadModel(gpt2_config(CONFIGS["tiny-gpt"])) if family == "gpt2" else LlamaForCausalLM(llama_config())
    saved_by_transformers(theirs, tmp_path)
    ours = load_decoder(tmp_path)
    ids = torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(1))
    for model in (ours, theirs):
        model(ids, labels=ids).loss.backward()
    expected = dict(theirs.named_parameters())
    assert len(expected) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        gradient = expected[name_in_file(name, family)].grad
        if gradient.shape != parameter.shape or name.endswith("c_proj.weight") and family == "gpt2":
            gradient = gradient.T
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("attend", [attend_sdpa, attend_eager])
def test_sinks_are_those_of_gpt_oss(attend):
    from types import SimpleNamespace

    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    torch.manual_seed(0)
    q, k, v = torch.randn(2, 8, 10, 16), torch.randn(2, 2, 10, 16), torch.randn(2, 2, 10, 16)
    module = SimpleNamespace(num_key_value_groups=4, sinks=torch.randn(8), training=False)
    future = torch.full((10, 10), -torch.inf).triu(1)[None, None]
    expected, _ = eager_attention_forward(module, q, k, v, future, scaling=16**-0.5)
    torch.testing.assert_close(attend(q, k, v, sinks=module.sinks).transpose(1, 2), expected, atol=1e-6, rtol=1e-5)


# --- we saved it, transformers loads it ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-gpt", "modern-1m"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_what_we_save(name, tied, tmp_path):
    config = replace(CONFIGS[name], tie_word_embeddings=tied, num_hidden_layers=2)
    ours = randomised(Decoder(config))
    save_decoder(ours, tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    compare(ours, theirs.eval(), config.vocab_size)
    theirs.save_pretrained(tmp_path / "again")  # and back: the same bits
    again = load_decoder(tmp_path / "again")
    assert again.config == config
    assert all(p.equal(q) for p, q in zip(again.parameters(), ours.parameters(), strict=True))


@pytest.mark.weights
def test_tokenizer_and_its_special_tokens_travel(smollm2, tmp_path):
    _, tokenizer = smollm2
    config = DecoderConfig("llama", 49_152, 16, 1, 2, 128)
    save_decoder(Decoder(config), tmp_path, tokenizer)
    model, again = load(tmp_path)
    assert again("How are you?")["input_ids"] == tokenizer("How are you?")["input_ids"]
    assert again.chat_template == tokenizer.chat_template
    assert model.config.eos_token_id == tokenizer.eos_token_id


# --- the NumPy edition ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_numpy_gpt(tied):
    """The seed's GPT(100, 32, 4, 2, 64): its three projections, side by side, are our fused one."""
    from course_lib.scratch.gpt import GPT

    numpy_gpt = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64, tied=tied, seed=3)
    rng = np.random.default_rng(0)
    for parameter in numpy_gpt.parameters():
        parameter.data += rng.normal(0, 0.1, parameter.shape).astype(np.float32)
    ours = Decoder(replace(CONFIGS["tiny-gpt"], tie_word_embeddings=tied)).eval()
    assert sum(p.data.size for p in numpy_gpt.parameters()) == sum(p.numel() for p in ours.parameters())

    pairs = [(ours.model.embed_tokens, numpy_gpt.tokens), (ours.model.embed_positions, numpy_gpt.positions)]
    pairs += [(ours.model.norm, numpy_gpt.norm)] + ([] if tied else [(ours.lm_head, numpy_gpt.head)])
    for block, theirs in zip(ours.model.layers, numpy_gpt.blocks, strict=True):
        pairs += [(block.input_layernorm, theirs.norm1), (block.post_attention_layernorm, theirs.norm2)]
        pairs += [(block.self_attn.c_proj, theirs.attention.out_proj)]
        pairs += [(block.mlp.c_fc, theirs.up_proj), (block.mlp.c_proj, theirs.down_proj)]
        three = [getattr(theirs.attention, f"{which}_proj") for which in "qkv"]
        with torch.no_grad():
            for which in ("weight", "bias"):
                fused = np.concatenate([getattr(part, which).data for part in three])
                getattr(block.self_attn.c_attn, which).copy_(torch.tensor(fused))
    with torch.no_grad():
        for module, theirs in pairs:
            for which, parameter in module.named_parameters():
                parameter.copy_(torch.tensor(getattr(theirs, which).data))

    ids = rng.integers(0, 100, (2, 20))
    output = ours(torch.tensor(ids), labels=torch.tensor(ids))
    np.testing.assert_allclose(output.logits.detach().numpy(), numpy_gpt(ids).data, atol=1e-4)
    assert output.loss.item() == pytest.approx(float(numpy_gpt.loss(ids, ids).data), abs=1e-5)


def test_config_survives_the_round_trip_through_transformers(tmp_path):
    """Every field, at values that are nobody's default."""
    config = DecoderConfig("llama", 77, 24, 1, 3, 99, 40, 1, 10, 3e-4, 1234.0, False)
    save_decoder(Decoder(config), tmp_path / "a")
    AutoModelForCausalLM.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert asdict(load_decoder(tmp_path / "b").config) == asdict(config)
