"""Operations (FLOPs) of a decoder by formula: what a token costs in the forward pass and in training.

A product of (m, k) and (k, n) matrices takes 2 m k n operations. Everything else in a decoder (norms, activations, the
softmax) is small beside the products and is left out, as is usual (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1;
Chowdhery et al. 2022, arXiv:2204.02311, app. B). tests/models/test_flops.py compares the numbers with torch's own
counter.
"""

from course_lib.models.config import DecoderConfig

BACKWARD = 2  # the backward pass multiplies twice for each product of the forward pass: by weight, and by input


def matrix_parameters(config: DecoderConfig) -> int:
    """Parameters that every token is multiplied by: all matrices with the head, without the embedding's look-up."""
    d, m, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    # queries and output; keys and values
    attention = 2 * d * config.head_dim * (heads + config.num_key_value_heads)
    mlp = (2 if config.model_type == "gpt2" else 3) * d * m
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * d


def attention_flops(config: DecoderConfig, seq_len: int) -> int:
    """Operations of one token for scores and mixing, with all keys of a row: what torch's kernels count.

    Args:
        config: the decoder's shape.
        seq_len: tokens of the row, T.

    Returns:
        4 L H D T: a query times T keys, and T weights times T values, in each head of each block. A causal kernel that
        leaves the masked half out computes about half of it.
    """
    return 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seq_len


def forward_flops(config: DecoderConfig, seq_len: int) -> int:
    """Operations of a forward pass for one token.

    Args:
        config: the decoder's shape.
        seq_len: tokens of the row that the token stands in.

    Returns:
        2 for each parameter of a matrix, and the attention's.
    """
    return 2 * matrix_parameters(config) + attention_flops(config, seq_len)


def training_flops(config: DecoderConfig, seq_len: int, tokens: int = 1, gradient_checkpointing: bool = False) -> int:
    """Operations of training on so many tokens. Without attention it is the well-known 6 N D.

    Args:
        config: the decoder's shape.
        seq_len: tokens of a row.
        tokens: how many the run reads.
        gradient_checkpointing: the blocks' forward pass is computed a second time. (So is the head's here: a little
            too much for small models.)

    Returns:
        Three forward passes for each token, or four with gradient checkpointing.
    """
    passes = 1 + BACKWARD + int(gradient_checkpointing)
    return passes * forward_flops(config, seq_len) * tokens
