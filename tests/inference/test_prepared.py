"""The model made for decoding: the same logits in float32, and what the other formats cost."""

import copy
import subprocess
import sys

import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.errors import CourseError
from course_lib.inference import generate, prepare
from course_lib.inference.products import PRODUCTS, Int4Product, Int8Product
from course_lib.models import onednn
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.training.memory import reset_process_peak

PROMPTS = [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]


def our_llama(**changes):
    torch.manual_seed(1)
    return Decoder(DecoderConfig("llama", 96, 64, 2, 4, 128, 96, 2, **changes)).eval()


def tokens(rows=2, time=9):
    return torch.randint(0, 96, (rows, time), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [our_llama, lambda: our_llama(tie_word_embeddings=False)])
def test_float32_logits_are_the_models(make):
    model = make()
    # sums in another order, weights multiplied by the norm's beforehand: 1e-5 of logits about 1
    torch.testing.assert_close(prepare(model)(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)


def test_transformers_models_too(tiny_llama):
    prepared = prepare(tiny_llama)
    torch.testing.assert_close(prepared(tokens()).logits, tiny_llama(tokens()).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", ["none", "dynamic", "static", "paged", "sink"])
def test_tokens_are_the_models_with_every_cache(tiny_llama, cache):
    expected = generate(tiny_llama, PROMPTS, 20, cache="none", eos_token_id=())
    assert generate(prepare(tiny_llama), PROMPTS, 20, cache=cache, eos_token_id=()) == expected
    assert generate(tiny_llama, [PROMPTS[0]] * 2, 5) == generate(prepare(tiny_llama), [PROMPTS[0]] * 2, 5)


def test_a_sink_cache_turns_the_prepared_models_keys_rightly(tiny_llama):
    from course_lib.inference.caches import make_cache

    texts = []
    for model in (tiny_llama, prepare(tiny_llama)):
        cache = make_cache("sink", model, 0, sinks=2, window=8)
        texts.append(generate(model, [[5, 9, 31]], 40, cache=cache, eos_token_id=())[0])
    assert texts[0] == texts[1]


def test_adapters_are_folded_in(tiny_llama):
    model = copy.deepcopy(tiny_llama)
    inject_lora(model, ["q_proj", "down_proj"], rank=2, alpha=4)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.1)
    changed = model.eval()(tokens()).logits
    assert (changed - tiny_llama(tokens()).logits).abs().max() > 0.01
    torch.testing.assert_close(prepare(model)(tokens()).logits, changed, atol=1e-5, rtol=1e-4)


def test_peft_adapters_are_folded_in(tiny_llama):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=["v_proj", "up_proj"], init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(tiny_llama), config).eval()
    torch.testing.assert_close(prepare(model)(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-4)


def test_a_base_in_our_own_four_bits(tiny_llama):
    from course_lib.quantization import quantize_model

    model = quantize_model(copy.deepcopy(tiny_llama))
    expected = model(tokens()).logits
    assert (expected - tiny_llama(tokens()).logits).abs().max() > 1e-3
    torch.testing.assert_close(prepare(model)(tokens()).logits, expected, atol=1e-5, rtol=1e-4)


def test_weights_that_a_library_has_packed_are_refused(tiny_llama):
    model = copy.deepcopy(tiny_llama)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.uint8), requires_grad=False)
    with pytest.raises(CourseError, match="weights of type torch.uint8"):
        prepare(model)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("weights", list(PRODUCTS))
def test_a_product_is_that_of_its_matrix(weights, rows):
    torch.manual_seed(0)
    weight, x, columns = torch.randn(48, 64), torch.randn(rows, 64), torch.rand(64) + 0.5
    product = PRODUCTS[weights](weight, columns)
    assert (product.matrix() - weight * columns).abs().max() < {"float32": 1e-6, "int4": 0.5}.get(weights, 0.05)
    # bfloat16 keeps 8 bits of x and of the result; the sum has 64 numbers of about 1
    tolerance = 1e-5 if weights == "float32" else 0.02
    expected = x @ product.matrix().t()
    assert (product(x) - expected).abs().max() <= tolerance * expected.abs().max()
    assert (product.added_to(x[:, :48], x) - x[:, :48] - expected).abs().max() <= tolerance * expected.abs().max()


def test_packing_by_hand():
    weight = torch.zeros(16, 32)
    weight[0, :3] = torch.tensor([-8.0, 7.0, 1.0])
    assert Int4Product(weight).matrix()[0, :4].tolist() == [-8, 7, 1, 0]
    weight[0, :3] = torch.tensor([127.0, -127.0, 64.0])
    assert Int8Product(weight).q[0, :4].tolist() == [127, -127, 64, 0]


@pytest.mark.parametrize(("weights", "bits"), [("float32", 32), ("bfloat16", 16), ("int8", 8), ("int4", 4)])
def test_bytes_of_the_weights(weights, bits):
    product = PRODUCTS[weights](torch.randn(64, 512))
    extra = {"int8": 2 * 64, "int4": 4 * 64 * 512 // 32}.get(weights, 0)  # scales and offsets
    assert sum(tensor.nbytes for tensor in product.tensors()) == 64 * 512 * bits // 8 + extra


def test_what_cannot_be_prepared_is_refused():
    with pytest.raises(CourseError, match="weights is 'int3'; choose one of float32, bfloat16, int8, int4"):
        prepare(our_llama(), "int3")
    with pytest.raises(CourseError, match="for Llama models, and this is gpt2"):
        prepare(Decoder(DecoderConfig("gpt2", 97, 32, 2, 4, 128)))
    with pytest.raises(CourseError, match="learned attention sinks"):
        prepare(our_llama(attention_sinks=True))
    with pytest.raises(CourseError, match="cannot be packed in four bits"):
        Int4Product(torch.zeros(16, 40))


# In four bits only because the packaged weights were there before: see `products`.
# The loss that a format costs on the first 512 tokens of the bundled text, in nats per token, measured and rounded up.
LOSS = {"float32": 1e-5, "bfloat16": 0.01, "int8": 0.02, "int4": 0.01}


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("weights", list(LOSS))
def test_the_loss_that_a_format_costs(smollm2, weights):
    from pathlib import Path

    from course_lib.data.bundled import __path__ as bundled

    model, tokenizer = smollm2
    text = Path(next(iter(bundled)), "keepers_log.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text)["input_ids"][:512]])

    def loss(which):
        with torch.inference_mode():
            return torch.nn.functional.cross_entropy(which(ids).logits[0, :-1].float(), ids[0, 1:]).item()

    cost = loss(prepare(model, weights)) - loss(model)
    print(f"{weights}: {cost:+.4f} nats per token")
    assert abs(cost) < LOSS[weights]


@pytest.mark.parametrize("weights", list(PRODUCTS))
def test_the_product_of_one_row_that_is_compiled_is_the_matrix_times_x(weights):
    """As `compiled` writes it. Only where the kernel is torch's, x is rounded."""
    numbers = torch.Generator().manual_seed(0)
    weight, columns, x = (torch.randn(shape, generator=numbers) for shape in ((48, 64), (64,), (1, 64)))
    product = PRODUCTS[weights](weight, columns)
    product.for_compiler()
    expected = x.double() @ product.matrix().double().t()  # of about 8
    tolerance = 0.15 if weights == "int4" else 1e-4  # its kernel takes and gives 8 bits: 2^-8 of 8, and of each input
    torch.testing.assert_close(product.one_row(x).double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("out", [8, 9, 5000])  # parts of equal size, one part, several pieces
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_what_is_stored_for_the_compiler_gives_the_same(weights, out, rows):
    numbers = torch.Generator().manual_seed(0)
    weight, columns, x, total = (
        torch.randn(shape, generator=numbers) for shape in ((out, 7), (7,), (rows, 7), (rows, out))
    )
    packed, plain = PRODUCTS[weights](weight, columns), PRODUCTS[weights](weight, columns)
    plain.for_compiler()
    assert torch.equal(plain.matrix(), packed.matrix())
    torch.testing.assert_close(packed.matrix(), weight * columns, rtol=1e-2 if weights == "bfloat16" else 0, atol=0)
    tolerance = 0.1 if weights == "bfloat16" else 1e-5  # of sums about 5: 8 bits, or their order
    torch.testing.assert_close(plain(x), packed(x), atol=tolerance, rtol=0)
    torch.testing.assert_close(plain.added_to(total, x), packed.added_to(total, x), atol=tolerance, rtol=0)


def test_a_machine_without_onednn_gets_the_same(monkeypatch):
    numbers = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 64, generator=numbers), torch.randn(3, 64, generator=numbers)
    for name in ("has_onednn", "has_bfloat16"):
        monkeypatch.setattr(onednn, name, lambda: False)
    torch.testing.assert_close(PRODUCTS["float32"](weight)(x), x @ weight.T)
    torch.testing.assert_close(PRODUCTS["bfloat16"](weight)(x), x @ weight.T, atol=0.3, rtol=0)  # 8 bits of 64 products


PACKING = """
import sys, torch
from course_lib.inference.products import PRODUCTS
from course_lib.training.memory import current_memory, peak_memory, reset_process_peak, return_freed_memory
weight, columns, here = torch.ones(49_152, 576), torch.ones(576), torch.device("cpu")
return_freed_memory()  # and from now on what is freed, so that the peak is that of tensors and not of holes
PRODUCTS[sys.argv[1]](weight[:4096], columns)  # what the first one loads
reset_process_peak()
before = current_memory(here)
product = PRODUCTS[sys.argv[1]](weight, columns)
print((peak_memory(here) - before - sum(kept.nbytes for kept in product.tensors())) / weight.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not reset_process_peak(), reason="the peak of a process can be begun anew on Linux only")
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_vocabularys_matrix_is_packed_without_a_second_copy(weights):
    """SmolLM2's head takes 113 MB in float32. Scaled, divided and rounded as a whole it took three times as much.

    In a process of its own: in ours, what earlier tests have left moves the peak by more than that.
    """
    done = subprocess.run([sys.executable, "-c", PACKING, weights], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.6  # of the matrix, beside what is kept
