"""Our generate loop against transformers'."""

import pytest
import torch

from course_lib.inference import complete, generate


def test_greedy_equals_transformers(tiny_llama):
    prompt = [5, 9, 31, 7]
    expected = tiny_llama.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert generate(tiny_llama, [prompt], 20) == expected[:, 4:].tolist()


def test_unequal_prompts_in_a_batch_equal_each_alone(tiny_llama):
    """Wrong positions under left padding are the classic mistake of batched generation."""
    prompts = [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]
    together = generate(tiny_llama, prompts, 12)
    assert together == [generate(tiny_llama, [prompt], 12)[0] for prompt in prompts]


@pytest.mark.weights
def test_real_model_unequal_prompts(smollm2):
    model, tokenizer = smollm2
    prompts = ["The capital of France is", "Once upon a time, in a village by the sea, there"]
    together = complete(model, tokenizer, prompts, 8)
    for prompt, text in zip(prompts, together, strict=True):
        tokens = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(**tokens, max_new_tokens=8, do_sample=False)
        assert text == tokenizer.decode(expected[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
