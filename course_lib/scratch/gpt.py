"""A GPT (Radford et al. 2019): token and position embeddings, blocks of attention and MLP, a head.

Pre-norm, learned positions, separate query, key and value projections. Left out: a key-value cache, mixed precision.
Checked against the same network in torch, logits, loss and gradients, in tests/scratch/test_gpt.py.
"""

from typing import Any

import numpy as np

from course_lib.scratch.functional import cross_entropy, dropout, gelu, softmax
from course_lib.scratch.nn import Embedding, LayerNorm, Linear, Module
from course_lib.scratch.tensor import Tensor, no_grad


class Attention(Module):
    """Causal self-attention with several heads: softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1).

    Args:
        embed_dim: the width of the model, a multiple of num_heads.
        num_heads: how many heads share that width; each has d = embed_dim / num_heads.
        options: rng and dtype of the four projections, as `Linear` takes them.

    Raises:
        ValueError: the heads cannot share the width evenly.
    """

    def __init__(self, embed_dim: int, num_heads: int, **options: Any):
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} cannot be shared out evenly to {num_heads} heads.")
        self.num_heads = num_heads
        self.q_proj = Linear(embed_dim, embed_dim, **options)
        self.k_proj = Linear(embed_dim, embed_dim, **options)
        self.v_proj = Linear(embed_dim, embed_dim, **options)
        self.out_proj = Linear(embed_dim, embed_dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, embed_dim) -> the same shape; position t sees positions up to t."""
        batch, time, width = x.shape
        q, k, v = (self._split(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        # Dividing by sqrt(d) keeps the scores' spread near 1 at any width, so that the softmax does not saturate.
        scores = q @ k.transpose() * (1 / np.sqrt(width // self.num_heads))  # (batch, heads, time, time)
        # -inf above the diagonal becomes a weight of 0: no position sees what it has to predict.
        future = np.triu(np.full((time, time), -np.inf, dtype=x.dtype), k=1)
        mixed = softmax(scores + future) @ v  # (batch, heads, time, head width)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, time, width))

    def _split(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> (batch, heads, time, width / heads)."""
        batch, time, width = x.shape
        return x.reshape(batch, time, self.num_heads, width // self.num_heads).transpose(1, 2)


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the MLP is four times as wide inside.

    Args:
        embed_dim: the width of the model.
        num_heads: heads of the attention.
        p: the dropout on both residual paths, in training.
        rng: draws the start, and then the dropouts.
        dtype: of the parameters.
    """

    def __init__(self, embed_dim: int, num_heads: int, p: float, *, rng: np.random.Generator, dtype: type):
        self.norm1, self.norm2 = LayerNorm(embed_dim, dtype), LayerNorm(embed_dim, dtype)
        self.attention = Attention(embed_dim, num_heads, rng=rng, dtype=dtype)
        self.up_proj = Linear(embed_dim, 4 * embed_dim, rng=rng, dtype=dtype)
        self.down_proj = Linear(4 * embed_dim, embed_dim, rng=rng, dtype=dtype)
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, embed_dim) -> the same shape."""
        # Adding to x, rather than replacing it, lets gradients reach the lower blocks unchanged.
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.down_proj(gelu(self.up_proj(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.rng) if self.training else x


class GPT(Module):
    """A language model: token ids (batch, time) to logits (batch, time, vocab_size).

    Its `rng` draws the start and then the dropouts; a checkpoint keeps its state.

    Args:
        vocab_size: how many token ids there are.
        embed_dim: the width of the model, a multiple of num_heads.
        num_heads: heads of each attention.
        num_layers: how many blocks there are.
        max_seq_len: how many positions the model knows.
        tied: whether the head reuses the token embedding's table.
        dropout: the probability on the two residual paths of each block, in training.
        seed: decides the start.
        dtype: of all parameters.

    Raises:
        ValueError: a size is below 1, or the heads cannot share the width evenly.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        max_seq_len: int,
        *,
        tied: bool = True,
        dropout: float = 0.0,
        seed: int = 0,
        dtype: type = np.float32,
    ):
        sizes = {"vocab_size": vocab_size, "embed_dim": embed_dim, "num_heads": num_heads, "num_layers": num_layers}
        sizes |= {"max_seq_len": max_seq_len}
        if min(sizes.values()) < 1:
            raise ValueError(f"{sizes}: each must be at least 1.")
        rng = np.random.default_rng(seed)
        self.max_seq_len, self.vocab_size, self.rng = max_seq_len, vocab_size, rng
        self.tokens = Embedding(vocab_size, embed_dim, rng=rng, dtype=dtype)
        self.positions = Embedding(max_seq_len, embed_dim, rng=rng, dtype=dtype)
        self.blocks = [Block(embed_dim, num_heads, dropout, rng=rng, dtype=dtype) for _ in range(num_layers)]
        self.norm = LayerNorm(embed_dim, dtype)
        self.head = None if tied else Linear(embed_dim, vocab_size, bias=False, rng=rng, dtype=dtype)

    def forward(self, ids: np.ndarray) -> Tensor:
        """Integers (batch, time), with time at most max_seq_len -> logits (batch, time, vocab_size)."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.max_seq_len:
            raise ValueError(f"ids have shape {ids.shape}; expected (batch, 1 to {self.max_seq_len}).")
        # (batch, time, embed_dim) + (time, embed_dim): attention alone could not tell the order of the tokens.
        x = self.tokens(ids) + self.positions(np.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x @ self.tokens.weight.T if self.head is None else self.head(x)

    def loss(self, ids: np.ndarray, labels: np.ndarray) -> Tensor:
        """Cross-entropy of the next token: position t predicts labels[t+1].

        Args:
            ids: integers (batch, time).
            labels: the same ids, with -100 where a token is not trained.

        Returns:
            A single number, in nats per token.

        Raises:
            ValueError: the shapes differ, or no label is left to train on.
        """
        ids, labels = np.asarray(ids), np.asarray(labels)
        if ids.shape != labels.shape:
            raise ValueError(f"labels have shape {labels.shape} and ids {ids.shape}: they must be the same.")
        # The last position has no next token, and nothing predicts the first one.
        return cross_entropy(self(ids)[:, :-1], labels[:, 1:])

    def generate(self, ids: list[int], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """Continue a prompt.

        Args:
            ids: the prompt. The model sees its last max_seq_len tokens.
            max_new_tokens: how many tokens to add.
            temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature).
            seed: decides what is drawn.

        Returns:
            The new tokens.

        Raises:
            ValueError: the temperature is negative.
        """
        if temperature < 0:
            raise ValueError(f"temperature {temperature}: 0, or a positive number.")
        rng, ids = np.random.default_rng(seed), list(ids)
        start = len(ids)
        with no_grad():
            for _ in range(max_new_tokens):
                logits = self(np.array([ids[-self.max_seq_len :]])).data[0, -1]  # (vocab_size,)
                ids.append(_choose(logits, temperature, rng))
        return ids[start:]


def _choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    return int(rng.choice(len(p), p=p / p.sum()))
