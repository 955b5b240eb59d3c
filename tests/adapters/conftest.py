"""A GPT-2 beside the Llama of tests/conftest.py: its linear layers are transformers' `Conv1D`, weight (in, out)."""

import pytest


@pytest.fixture
def tiny_gpt2():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    return GPT2LMHeadModel(config).eval()
