"""Pairs as token ids, and the shared prompt: one forward pass equals two."""

import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.alignment.log_probs import sequence_log_probs
from course_lib.alignment.pairs import collate_pairs, encode_pairs, pair_log_probs, pair_mask, response_lengths
from course_lib.data import IGNORE
from course_lib.data.batching import pad
from course_lib.data.records import Record, RecordError, ask, reply
from course_lib.errors import CourseError
from course_lib.models.huggingface import load_decoder

PAIRS = [
    {"prompt": [5, 6, 7, 8], "chosen": [9, 10], "rejected": [11, 12, 13, 2]},
    {"prompt": [5], "chosen": [20, 21, 22, 23, 24, 2], "rejected": [25]},
    {"prompt": [30, 31, 32, 33, 34, 35, 36], "chosen": [37], "rejected": [38]},
]
for _pair in PAIRS:
    _pair["input_ids"] = [*_pair["prompt"], *_pair["chosen"], *_pair["rejected"]]


def tensors(pairs=PAIRS):
    return {key: torch.as_tensor(value) for key, value in collate_pairs(pairs, range(len(pairs)), 0).items()}


def separate(model, part):
    """log p of one response of each pair, in a batch of its own, padded."""
    rows = [
        {"input_ids": pair["prompt"] + pair[part], "labels": [IGNORE] * len(pair["prompt"]) + pair[part]}
        for pair in PAIRS
    ]
    batch = {key: torch.as_tensor(value) for key, value in pad(rows, 0).items()}
    return sequence_log_probs(model, **batch)


@pytest.mark.parametrize("kind", ["sdpa", "eager", "decoder", "lora", "gpt2"])
def test_one_pass_over_the_shared_prompt_equals_two(tiny_llama, tmp_path, kind):
    torch.manual_seed(0)
    model = tiny_llama
    for parameter in model.parameters():  # far from uniform, so that attention counts
        parameter.data.mul_(4)
    if kind == "eager":
        model.set_attn_implementation("eager")
    if kind == "decoder":
        model.save_pretrained(tmp_path)
        model = load_decoder(tmp_path)
    if kind == "lora":
        inject_lora(model, ["q_proj", "v_proj"], rank=2)
        for name, parameter in model.named_parameters():
            if ".B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    if kind == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=97, **shape)).eval()
    for found, part in zip(pair_log_probs(model, tensors()), ("chosen", "rejected"), strict=True):
        assert torch.allclose(found, separate(model, part), rtol=1e-5)


def test_the_gradient_is_that_of_two_passes(tiny_llama):
    grads = []
    for function in (
        lambda: pair_log_probs(tiny_llama, tensors()),
        lambda: [separate(tiny_llama, part) for part in ("chosen", "rejected")],
    ):
        tiny_llama.zero_grad()
        chosen, rejected = function()
        torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum().backward()
        grads.append([p.grad.clone() for p in tiny_llama.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_mask_of_a_worked_row():
    """Prompt a b, chosen c, rejected d, one place of padding."""
    mask = pair_mask(torch.tensor([[0, 0, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_a_worked_batch():
    batch = collate_pairs(PAIRS[:1], [0], 0)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 4, 5, 6, 7]]
    assert batch["labels"].tolist() == [[9, 10, 11, 12, 13, 2]]
    assert batch["columns"].tolist() == [[3, 4, 3, 6, 7, 8]]
    assert [lengths.tolist() for lengths in response_lengths(tensors())] == [[2, 6, 1], [4, 1, 1]]


def record(chosen, rejected, question="Which lamp?", source="", **rest):
    return Record((ask(question), reply(chosen)), rejected=rejected, source=source, **rest)


def test_pairs_without_a_signal_are_counted_and_named(tokenizer):
    records = [
        record("The red one.", "None.", source="a:1"),
        record("The same.", " The same. ", source="a:2"),
        record("   ", "None.", source="a:3"),
        record("The red one.", "", source="a:4"),
        record("The red one.", None, source="a:5"),
        record("The red one.", "None.", question="Long " * 60, source="a:6"),
    ]
    found = encode_pairs(records, tokenizer, template="instruction", max_length=80)
    assert found.names == ["a:1"]
    assert found.dropped == {
        "identical": ["a:2"], "empty": ["a:3", "a:4"], "no rejected response": ["a:5"], "truncated": ["a:6"],
    }  # fmt: skip
    assert "pairs left out: 2 (a response is empty): a:3, a:4" in found.report()


def test_ids_are_those_of_the_template_and_end_with_the_end_token(tokenizer):
    (pair,) = encode_pairs([record("The red one.", "None.")], tokenizer, template="instruction").pairs
    assert tokenizer.decode(pair["prompt"]) == "### Instruction:\nWhich lamp?\n### Response:\n"
    assert tokenizer.decode(pair["chosen"]) == "The red one.<eos>"
    assert tokenizer.decode(pair["rejected"]) == "None.<eos>"


def test_what_is_too_long_is_cut_or_left_out(tokenizer):
    records = [record("Red lamp one. " * 4, "No. " * 3)]
    (whole,) = encode_pairs(records, tokenizer, template="instruction").pairs
    limit = len(whole["prompt"]) + 5
    cut = encode_pairs(records, tokenizer, template="instruction", max_length=limit)
    assert cut.cut == 1
    assert cut.pairs[0]["chosen"] == whole["chosen"][:5]
    assert cut.pairs[0]["prompt"] == whole["prompt"]
    kept = len(whole["chosen"]) + 3
    cut = encode_pairs(records, tokenizer, template="instruction", max_length=kept, too_long="cut-start")
    assert cut.pairs[0]["prompt"] == whole["prompt"][-3:]
    assert cut.pairs[0]["chosen"] == whole["chosen"]
    skipped = encode_pairs(records, tokenizer, template="instruction", max_length=limit, too_long="skip")
    assert skipped.dropped == {"too long": ["pair 0"]}
    with pytest.raises(RecordError, match="more than the limit"):
        encode_pairs(records, tokenizer, template="instruction", max_length=limit, too_long="error")
    with pytest.raises(CourseError, match="too_long='no'"):
        encode_pairs(records, tokenizer, too_long="no")


def test_equal_responses_after_a_cut_are_left_out(tokenizer):
    records = [record("The red lamp is lit.", "The red lamp is dark.")]
    (whole,) = encode_pairs(records, tokenizer, template="instruction").pairs
    found = encode_pairs(records, tokenizer, template="instruction", max_length=len(whole["prompt"]) + 2)
    assert found.dropped == {"identical": ["pair 0"]}


def test_other_ids_have_another_fingerprint(tokenizer):
    one, other = (encode_pairs([record(text, "No.")], tokenizer, template="instruction") for text in ("Yes.", "Yes!"))
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == encode_pairs([record("Yes.", "No.")], tokenizer, template="instruction").fingerprint()
