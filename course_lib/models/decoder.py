"""One decoder, two families: GPT-2 and Llama (DecoderConfig says which parts each is made of).

Both are the same stack of blocks over a residual stream x (batch, time, width), normalised before each part:

    x = x + attention(norm(x));    x = x + mlp(norm(x));    logits = head(norm(x))

Module names are those of transformers' Llama, so that adapters find their layers (q_proj, v_proj; GPT-2's own c_attn)
and Llama weights need no renaming. Checked against transformers, values and gradients, in tests/parity/test_decoder.py.
Left out: RoPE scaling for longer contexts, sliding windows, mixtures of experts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig


@dataclass
class DecoderOutput:
    """logits: (batch, time, vocabulary). loss: a scalar in nats a token where labels were given.

    past_key_values: the cache, for the next call, where one was given or asked for.
    """

    logits: Tensor
    loss: Tensor | None = None
    past_key_values: object | None = None


class KVCache:
    """The keys and values of the tokens so far, a pair a layer, each (batch, key-value heads, time, head_dim).

    Anything with these two methods can take its place, transformers' DynamicCache for one.
    """

    def __init__(self):
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self) -> int:
        """Tokens in the cache."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; returns all of this layer's."""
        if layer in self.layers:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.layers[layer], (keys, values), strict=True))
        self.layers[layer] = keys, values
        return keys, values


class Decoder(nn.Module):
    """Token ids to logits: embeddings and blocks (`model`), then the head.

    New weights are normal with deviation 0.02 (Radford et al. 2019), biases and sinks zero. Layers that write to the
    residual stream start 1 / sqrt(2 layers) smaller, so that its variance does not grow with the 2 sums a block.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        # A tied head is no module: the embedding's table is used again, and stays one tensor wherever the model goes.
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.is_meta:  # shapes without memory, about to be given a file's weights
                break
            if parameter.dim() == 2:
                into_stream = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.num_hidden_layers if into_stream else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values=None,
        use_cache: bool = False,
    ) -> DecoderOutput:
        """input_ids: (batch, time). The other arguments are those of transformers' models.

        attention_mask: 1 for tokens and 0 for padding, (batch, past + time); or, for rows packed with several
        documents, True where query i may see key j, (batch, 1, time, past + time). What lies ahead is never seen.
        position_ids: (batch or 1, time); where not given, counted on from the cache's end, padding included.
        labels: (batch, time), unshifted: position t predicts label t + 1. A label of -100 is not trained on.
        Raises CourseError where a mask's shape does not fit, or GPT-2's learned positions run out.
        """
        if use_cache and past_key_values is None:
            past_key_values = KVCache()
        hidden = self.model(input_ids, attention_mask, position_ids, past_key_values)
        logits = F.linear(hidden, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)
        loss = None
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=-100)  # shifted here: moving the logits would copy them
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
        return DecoderOutput(logits, loss, past_key_values)

    def gradient_checkpointing_enable(self, **_) -> None:
        """In training, keep only each block's input and compute the rest again in the backward pass."""
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all that the backward pass needs: more memory, one forward pass less."""
        self.model.gradient_checkpointing = False


class Backbone(nn.Module):
    """Token ids to hidden states, the last norm included: all of the decoder but its head."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.model_type == "gpt2":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
    ) -> Tensor:
        """Arguments as for Decoder. Returns (batch, time, width)."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        batch, time = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(past, past + time, device=input_ids.device)[None]
        mask = visible(attention_mask, batch, time, past, input_ids.device)

        x, rotation = self.embed_tokens(input_ids), None
        if self.config.model_type == "gpt2":
            if past + time > (limit := self.config.max_position_embeddings):
                raise CourseError(f"{past + time} tokens are more than this model's {limit} learned positions.")
            x = x + self.embed_positions(position_ids)
        else:
            rotation = rope(position_ids, self.config.head_dim, self.config.rope_theta)
        x = self.dropout(x)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training and past_key_values is None:
                x = checkpoint(layer, x, mask, rotation, use_reentrant=False)
            else:
                x = layer(x, mask, rotation, past_key_values)
        return self.norm(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = norm(config), norm(config)
        self.self_attn = Attention(config, layer)
        self.mlp = GELUMLP(config) if config.model_type == "gpt2" else SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, rotation: tuple | None = None, cache=None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), mask, rotation, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


def norm(config: DecoderConfig) -> nn.Module:
    """LayerNorm (x - mean) / deviation * w + b; RMSNorm x / rms(x) * w leaves the mean (arXiv:1910.07467, eq. 4)."""
    kind = nn.LayerNorm if config.model_type == "gpt2" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps)


class GELUMLP(nn.Module):
    """W2 gelu(W1 x + b1) + b2, gelu in its tanh form (arXiv:1606.08415)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x): one half decides how much of the other passes (arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Causal self-attention, softmax(q k^T / sqrt(head_dim)) v in every head (arXiv:1706.03762, eq. 1).

    Grouped queries (arXiv:2305.13245): fewer heads for k and v, each shared by a group of query heads; the cache is
    smaller by that factor. Sinks (arXiv:2309.17453 saw the first tokens serve as such; learned as in gpt-oss,
    arXiv:2508.10925): a logit s a head joins the softmax, so that a head may attend to nothing:

        weight_j = exp(score_j) / (exp(s) + sum_i exp(score_i))
    """

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        width, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        if config.model_type == "gpt2":
            self.c_attn = nn.Linear(width, 3 * width)  # q, k and v side by side
            self.c_proj = nn.Linear(width, width)
        else:
            self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
            self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
            self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
            self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)
        self.sinks = nn.Parameter(torch.zeros(heads)) if config.attention_sinks else None

    def forward(self, x: Tensor, mask: Tensor | None = None, rotation: tuple | None = None, cache=None) -> Tensor:
        """x: (batch, time, width). mask: as `visible` gives it; rotation: as `rope` does. Returns x's shape."""
        fused = self.config.model_type == "gpt2"
        q, k, v = self.c_attn(x).chunk(3, dim=-1) if fused else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (t.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for t in (q, k, v))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        attend = attend_eager if self.config.attention == "eager" else attend_sdpa
        mixed = attend(q, k, v, mask, self.sinks, self.config.dropout if self.training else 0.0)
        return (self.c_proj if fused else self.o_proj)(mixed.transpose(1, 2).flatten(2))


def rope(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """(cos, cos), (-sin, sin) of the angles p theta^(-2i / head_dim), i < head_dim / 2, at positions p (batch, time).

    RoPE (arXiv:2104.09864, eq. 15): the pair i of a query or key at position p is turned by that angle, after which
    q . k depends on positions through their difference alone. Returns two tensors (batch, 1, time, head_dim), as
    `rotate` takes them.
    """
    # Written as models were trained with it: theta ** -x rounds otherwise, which moves SmolLM2's logits by 1e-4.
    frequencies = 1 / theta ** (torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions[:, None, :, None].float() * frequencies
    return torch.cat([angles.cos()] * 2, dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (batch, heads, time, head_dim): (a, b) becomes (a cos - b sin, b cos + a sin).

    A pair is number i of either half, as Llama's files have them, so that rolling by a half puts b where a was.
    """
    return x * cos.to(x.dtype) + x.roll(x.shape[-1] // 2, dims=-1) * sin.to(x.dtype)


def visible(attention_mask: Tensor | None, batch: int, time: int, past: int, device: torch.device) -> Tensor | None:
    """What each query may see: boolean (batch or 1, 1, time, past + time), or None for plain causal attention.

    A token always sees itself: padding then has something to attend to, where a softmax over nothing would be NaN.
    """
    if attention_mask is None:
        return causal(time, past, device) if past else None
    shapes = {2: (batch, past + time), 4: (batch, 1, time, past + time)}
    shape, packed = tuple(attention_mask.shape), attention_mask.dim() == 4
    # Only booleans for packed rows: in a mask that is added to the scores, as some libraries have it, 0 means visible.
    if shape != shapes.get(len(shape)) or (packed and attention_mask.dtype != torch.bool):
        raise CourseError(
            f"attention_mask is {attention_mask.dtype} of shape {shape}; it should be of shape {shapes[2]}, or boolean "
            f"of shape {shapes[4]} for packed rows."
        )
    allowed = attention_mask if packed else attention_mask.bool()[:, None, None]
    itself = torch.eye(time, dtype=torch.bool, device=device)
    return allowed & causal(time, past, device) | F.pad(itself, (past, 0))


def causal(time: int, past: int, device: torch.device) -> Tensor:
    """True where key <= query, (1, 1, time, past + time): the queries are the last `time` of all tokens."""
    return torch.ones(time, past + time, dtype=torch.bool, device=device).tril(past)[None, None]


def attend_eager(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The formula of `Attention`, step by step. q: (batch, heads, time, head_dim); k, v: fewer heads, past + time."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if mask is None:
        mask = causal(q.shape[2], 0, q.device)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(q.dtype).view(1, -1, 1, 1).expand(*q.shape[:3], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)[..., : k.shape[2]]
    return F.dropout(weights, dropout) @ v


def attend_sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The same from torch's fused kernels, which store no (time, time) weights except for sinks."""
    if sinks is not None:
        # A sink is one more key and value, both zero: it scores 0 + s, the s coming in as a bias, and gives nothing.
        mask = causal(q.shape[2], 0, q.device) if mask is None else mask
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
        sink = sinks.to(q.dtype).view(1, -1, 1, 1).expand(*q.shape[:3], 1)
        mask = torch.cat([bias.expand(*q.shape[:3], -1), sink], dim=-1)
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    group = q.shape[1] // k.shape[1]
    if group > 1 and mask is not None and q.is_cuda:  # CUDA's fast kernels take a mask or grouped queries, not both
        k, v, group = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1), 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=group > 1
    )
