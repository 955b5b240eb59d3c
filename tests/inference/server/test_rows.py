"""The pass over token rows: the model's logits, and the same bits whatever else is computed with them."""

import copy

import pytest
import torch
from tiny_servers import VOCABULARY, adapter_folders, tiny_decoder

from course_lib.adapters import inject_butterfly, save_adapter
from course_lib.errors import CourseError
from course_lib.inference import prepare
from course_lib.inference.server.mixed import prepare_mixed
from course_lib.inference.server.rows import Chunk, RowModel

FORMATS = ("float32", "bfloat16", "int8", "int4")
PAGE = 16
LENGTHS = (1, 7, 30, 70)  # the last one has more tokens than the columns of one group


def texts(vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in LENGTHS]


def chunk(text, number, start, stop, adapter=-1):
    """Tokens start to stop of a text, in pages of its own."""
    pages = list(range(5 * number, 5 * number + 5))
    slots = [pages[place // PAGE] * PAGE + place % PAGE for place in range(start, stop)]
    return Chunk(text[start:stop], start, slots, pages, adapter)


def assert_same_bits(rows, texts, adapters):
    """One text after the other by the token, each whole, and all together: logits, keys and values are equal."""
    alone = []
    for number, (text, adapter) in enumerate(zip(texts, adapters, strict=True)):
        for place in range(len(text)):
            logits = rows.read([chunk(text, number, place, place + 1, adapter)])
        alone.append(logits[0])
    kept = rows.store[:, :-1].clone()

    rows.store.zero_()
    for number, (text, adapter) in enumerate(zip(texts, adapters, strict=True)):
        logits = rows.read([chunk(text, number, 0, len(text), adapter)])
        assert torch.equal(logits[0], alone[number])
    assert torch.equal(rows.store[:, :-1], kept)

    rows.store.zero_()
    cut = [len(text) // 2 for text in texts]
    rows.read([chunk(texts[n], n, 0, cut[n], adapters[n]) for n in range(len(texts)) if cut[n]])
    last = [chunk(texts[n], n, cut[n], len(texts[n]), adapters[n]) for n in reversed(range(len(texts)))]
    assert torch.equal(rows.read(last), torch.stack(alone[::-1]))
    assert torch.equal(rows.store[:, :-1], kept)


@pytest.mark.parametrize("weights", FORMATS)
def test_a_batch_changes_no_bit(weights):
    assert_same_bits(RowModel(prepare(tiny_decoder(), weights), 20, PAGE), texts(), [-1] * 4)


def test_nor_do_adapters_of_others(tmp_path):
    model = tiny_decoder()
    folders, _ = adapter_folders(model, tmp_path, a=1, b=2)
    prepared, stacks = prepare_mixed(copy.deepcopy(model), folders)
    rows = RowModel(prepared, 20, PAGE, stacks)
    assert_same_bits(rows, texts(), [0, -1, 1, 0])
    with_adapters = rows.read([chunk(texts()[2], 0, 0, 30)])
    assert torch.equal(RowModel(prepare(model), 20, PAGE).read([chunk(texts()[2], 0, 0, 30)]), with_adapters)


@pytest.mark.slow
@pytest.mark.parametrize("weights", FORMATS)
def test_a_batch_changes_no_bit_of_smollm2(smollm2, weights):
    assert_same_bits(RowModel(prepare(smollm2[0], weights), 20, PAGE), texts(49_152), [-1] * 4)


@pytest.mark.parametrize("make", [tiny_decoder, lambda: tiny_decoder(tie_word_embeddings=True)])
def test_logits_are_the_models(make):
    model = make()
    rows = RowModel(prepare(model), 20, PAGE)
    logits = rows.read([chunk(text, number, 0, len(text)) for number, text in enumerate(texts())])
    expected = [model(torch.tensor([text])).logits[0, -1] for text in texts()]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("page_size", [1, 5, 16, 100])
def test_pages_of_every_size(page_size):
    model, text = tiny_decoder(), texts()[3]
    pages = list(range(80 // page_size + 1))
    slots = [pages[place // page_size] * page_size + place % page_size for place in range(len(text))]
    logits = RowModel(prepare(model), len(pages), page_size).read([Chunk(text, 0, slots, pages)])
    torch.testing.assert_close(logits[0], model(torch.tensor([text])).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_rows_have_their_own_adapters(tmp_path):
    model = tiny_decoder()
    folders, models = adapter_folders(model, tmp_path, a=1, b=2)
    prepared, stacks = prepare_mixed(copy.deepcopy(model), folders)
    text = texts()[2]
    logits = RowModel(prepared, 20, PAGE, stacks).read([chunk(text, n, 0, 30, n - 1) for n in range(3)])
    for number, each in enumerate([model, models["a"], models["b"]]):
        expected = each(torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(logits[number], expected, atol=2e-4, rtol=2e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.1 < (logits[1] - logits[2]).abs().max()


def test_a_pefts_adapter_on_every_layer(tmp_path, tiny_llama):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=4, target_modules="all-linear", init_lora_weights=False, use_rslora=True)
    model = get_peft_model(copy.deepcopy(tiny_llama), config).eval()
    model.save_pretrained(tmp_path)
    prepared, stacks = prepare_mixed(tiny_llama, {"all": tmp_path})
    text = texts()[2]
    logits = RowModel(prepared, 20, PAGE, stacks).read([chunk(text, 0, 0, 30, 0)])
    torch.testing.assert_close(logits[0], model(torch.tensor([text])).logits[0, -1], atol=1e-4, rtol=1e-3)


def test_adapters_that_cannot_be_mixed_are_refused(tmp_path, tiny_llama):
    from peft import LoraConfig, get_peft_model

    butterfly = copy.deepcopy(tiny_llama)
    inject_butterfly(butterfly, ["q_proj"], stages=2, block_size=2)
    save_adapter(butterfly, tmp_path / "butterfly")
    for name, changes in {"dora": {"use_dora": True}, "head": {"target_modules": ["lm_head"]}}.items():
        config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"]} | changes)
        get_peft_model(copy.deepcopy(tiny_llama), config).save_pretrained(tmp_path / name)
    sentences = {"butterfly": "BUTTERFLY.*course merge", "dora": "use_dora", "head": "lm_head.*course merge"}
    for name, sentence in sentences.items():
        with pytest.raises(CourseError, match=sentence):
            prepare_mixed(copy.deepcopy(tiny_llama), {name: tmp_path / name})
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"")
    (tmp_path / "pickled" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CourseError, match="pickle"):
        prepare_mixed(copy.deepcopy(tiny_llama), {"pickled": tmp_path / "pickled"})
