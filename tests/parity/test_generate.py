"""Our generate loop against transformers'."""

import pytest
import torch

from course_lib.inference import complete, generate

ROOM = "inference"


def test_greedy_equals_transformers(tiny_llama, parity):
    prompt = [5, 9, 31, 7]
    expected = tiny_llama.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    ours = generate(tiny_llama, [prompt], 20, eos_token_id=())[0]
    differing = sum(a != b for a, b in zip(ours, expected[0, 4:].tolist(), strict=True))
    parity.exact("20 greedy tokens", "transformers generate", differing)


def test_unequal_prompts_in_a_batch_equal_each_alone(tiny_llama):
    """Wrong positions under left padding are the classic mistake of batched generation."""
    prompts = [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]
    together = generate(tiny_llama, prompts, 12)
    assert together == [generate(tiny_llama, [prompt], 12)[0] for prompt in prompts]


@pytest.mark.weights
def test_real_model_unequal_prompts(smollm2, parity):
    model, tokenizer = smollm2
    prompts = ["The capital of France is", "Once upon a time, in a village by the sea, there"]
    together = complete(model, tokenizer, prompts, 8)
    alone = []
    for prompt in prompts:
        tokens = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(**tokens, max_new_tokens=8, do_sample=False)
        alone.append(tokenizer.decode(expected[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
    differing = sum(text != expected for text, expected in zip(together, alone, strict=True))
    parity.exact("SmolLM2, prompts of unequal length in a batch", "transformers generate, each alone", differing)
