"""What `generate` refuses. That it is right: tests/parity/test_generate.py."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_lib.errors import CourseError
from course_lib.inference import generate


def test_gpt2_has_no_position_beyond_its_table():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    assert len(generate(model, [[1, 2, 3]], 6)[0]) == 6  # the last new token is not fed back: positions 0 to 7
    with pytest.raises(CourseError, match="prompt of 3 tokens and 7 new ones do not fit into this model's 8 positions"):
        generate(model, [[1], [1, 2, 3]], 7)
