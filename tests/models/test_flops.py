"""Operations by formula, against torch's own counter and published rules."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from course_lib.models.config import CONFIGS, DecoderConfig, parameter_count
from course_lib.models.decoder import Decoder
from course_lib.models.flops import attention_flops, forward_flops, matrix_parameters, training_flops
from course_lib.models.fused import plain_operations

SHAPES = {
    "llama": DecoderConfig("llama", 100, 32, 2, 4, 64, 48, 2, attention="eager"),
    "wide heads": DecoderConfig("llama", 100, 32, 3, 4, 64, 80, 1, head_dim=16, attention="eager"),
    "gpt2": DecoderConfig("gpt2", 100, 32, 2, 4, 64, attention="eager"),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seq_len", [8, 24])
def test_the_formula_is_what_torch_counts(name, seq_len):
    config, ids = SHAPES[name], torch.randint(100, (2, seq_len))
    model = Decoder(config)
    with FlopCounterMode(display=False) as forward, plain_operations(), torch.no_grad():
        model(ids)
    with FlopCounterMode(display=False) as both, plain_operations():
        model(ids, labels=ids).loss.backward()
    assert forward.get_total_flops() == forward_flops(config, seq_len) * ids.numel()
    assert both.get_total_flops() == training_flops(config, seq_len, ids.numel())


def test_by_hand():
    """Width 4, one head of 4, MLP of 8, vocabulary 10: 4 * 16 + 3 * 32 + 40 = 200 parameters of matrices."""
    config = DecoderConfig("llama", 10, 4, 1, 1, 16, 8)
    assert matrix_parameters(config) == 200
    assert attention_flops(config, 5) == 4 * 4 * 5
    assert forward_flops(config, 5) == 480
    assert training_flops(config, 5, 10) == 3 * 480 * 10
    assert training_flops(config, 5, 10, gradient_checkpointing=True) == 4 * 480 * 10


def test_six_n_is_right_for_a_large_model_and_short_rows():
    gpt3 = DecoderConfig("gpt2", 50_257, 12_288, 96, 96, 2048)
    assert training_flops(gpt3, 128) == pytest.approx(6 * parameter_count(gpt3), rel=0.01)
    # Brown et al. 2020, table D.1: GPT-3 175B took 3.14e23 operations for 300 billion tokens
    assert training_flops(gpt3, 2048, 300_000_000_000) == pytest.approx(3.14e23, rel=0.05)


def test_the_parameters_of_matrices_are_all_but_norms_and_look_ups():
    config = CONFIGS["modern-60m"]
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    assert matrix_parameters(config) == parameter_count(config) - norms  # tied: the table is the head
    untied = replace(config, tie_word_embeddings=False)
    assert matrix_parameters(untied) == matrix_parameters(config)
