"""One decoder, two families: GPT-2 and Llama (DecoderConfig says which parts each is made of).

Both are the same stack of blocks over a residual stream x (batch, time, width), normalised before each part:

    x = x + attention(norm(x));    x = x + mlp(norm(x));    logits = head(norm(x))

Module names are those of transformers' Llama, so that adapters find their layers (q_proj, v_proj; GPT-2's own c_attn)
and Llama weights need no renaming. tests/parity/test_decoder.py compares values and gradients with transformers.
Parts that a training step on a CPU spends its time in have a faster form with the gradient written by hand, in `fused`,
`fused_attention` and `fused_loss`; with `fused.plain_operations` everything is computed as it is written here.
Left out: RoPE scaling for longer contexts, sliding windows, mixtures of experts.

Shapes in comments: B is the batch, T the time (tokens in a row), C the width, H heads of D, K heads of keys and values.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from course_lib.data.masking import IGNORE
from course_lib.errors import CourseError
from course_lib.models.attention import Attention, full_attention_mask, rope
from course_lib.models.config import DecoderConfig
from course_lib.models.factors import has_hooks
from course_lib.models.fused import can_fuse, swiglu_mlp
from course_lib.models.fused_loss import TableGradient, embed, linear_cross_entropy

INIT_STD = 0.02  # GPT-2's (Radford et al. 2019)


@dataclass
class DecoderOutput:
    """What a call of the decoder returns.

    Attributes:
        logits: (batch, time, vocabulary), or None where they were not asked for.
        loss: a scalar, if labels were given.
        past_key_values: the cache, for the next call, where one was given or asked for.
    """

    logits: Tensor | None
    loss: Tensor | None = None
    past_key_values: object | None = None


class KVCache:
    """The keys and values of the tokens so far, a pair for each layer, each (batch, kv_heads, time, head_dim).

    Anything with these two methods can take its place, transformers' DynamicCache for one.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self) -> int:
        """How many tokens are in the cache."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens.

        Args:
            keys: (batch, kv_heads, new time, head_dim).
            values: like keys.
            layer: the number of the layer they are from.

        Returns:
            All keys and all values of this layer, (batch, kv_heads, time so far, head_dim) each.
        """
        if layer in self.layers:
            past_keys, past_values = self.layers[layer]
            keys = torch.cat([past_keys, keys], dim=2)
            values = torch.cat([past_values, values], dim=2)
        self.layers[layer] = keys, values
        return keys, values


class Decoder(nn.Module):
    """Token ids to logits: embeddings and blocks (`model`), then the head.

    New weights are normal with standard deviation 0.02 (Radford et al. 2019), biases and sinks are zero. The layers
    that write to the residual stream start smaller by a factor of sqrt(2 * layers): each block adds two such outputs
    to the stream, whose variance should not grow with the number of blocks.

    Args:
        config: the decoder's shape.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        if config.tie_word_embeddings:
            # A tied head is not a module: the embedding's table is used again, and stays one tensor.
            self.lm_head = None
        else:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Draw the new weights, as the class's docstring says."""
        writes_to_stream = ("c_proj.weight", "o_proj.weight", "down_proj.weight")
        for name, parameter in self.named_parameters():
            if parameter.is_meta:  # shapes without memory, about to be given a file's weights
                break
            if name.endswith(writes_to_stream):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * self.config.num_hidden_layers))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        num_items_in_batch: float | None = None,
        skip_logits: bool = False,
        logits_to_keep: int = 0,
    ) -> DecoderOutput:
        """The logits of every position, and the loss where labels are given. The arguments are those of transformers.

        Args:
            input_ids: (batch, time).
            attention_mask: 1 for tokens and 0 for padding, (batch, past + time); or, for rows packed with several
                documents, True where query i may see key j, (batch, 1, time, past + time). What lies ahead is never
                seen.
            position_ids: (batch or 1, time); where not given, counted on from the cache's end, padding included.
            labels: (batch, time), unshifted: position t predicts label t + 1. A label of -100 is not trained on.
            past_key_values: the cache of the tokens before these.
            use_cache: make a cache where none is given.
            num_items_in_batch: divide the summed loss by this number instead of by that of the labels trained on.
            skip_logits: return the loss alone. It is the same loss, and training is faster: only some of the logits
                exist at a time (see `fused_loss`).
            logits_to_keep: compute the logits of so many last positions alone, without a loss; 0: of all.

        Returns:
            Logits (batch, time or logits_to_keep, vocabulary), the loss in nats per token, and the cache.

        Raises:
            CourseError: A mask's shape does not fit, GPT-2's learned positions run out, or skip_logits comes without
                labels.
        """
        if skip_logits:
            alone = self._loss_alone(input_ids, attention_mask, position_ids, labels, num_items_in_batch)
            return DecoderOutput(None, alone)
        if use_cache and past_key_values is None:
            past_key_values = KVCache()
        hidden = self.model(input_ids, attention_mask, position_ids, past_key_values)  # (B, T, C)
        if logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        # (B, T, vocabulary): a tied head multiplies by the embedding's table
        logits = F.linear(hidden, self.output_weight) if self.lm_head is None else self.lm_head(hidden)
        loss = None
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)  # shifted here: moving the logits would copy them
            flat, targets = logits.flatten(0, 1).float(), targets.flatten()  # (B * T, vocabulary) and (B * T)
            if num_items_in_batch is None:
                loss = F.cross_entropy(flat, targets, ignore_index=IGNORE)
            else:
                loss = F.cross_entropy(flat, targets, ignore_index=IGNORE, reduction="sum") / num_items_in_batch
        return DecoderOutput(logits, loss, past_key_values)

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the head, (vocabulary, width): its own, or the embedding's table."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def _loss_alone(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        labels: Tensor | None,
        num_items_in_batch: float | None,
    ) -> Tensor:
        """The loss of `forward`, from hidden states where there is a target and from nowhere else."""
        if labels is None:
            raise CourseError("skip_logits=True returns the loss alone: pass labels, or leave skip_logits out.")
        # A row's last token predicts nothing, and the tokens before it do not see it: it need not be computed.
        time = max(1, input_ids.shape[1] - 1)
        if attention_mask is not None:
            attention_mask = (
                attention_mask[..., :time] if attention_mask.dim() == 2 else attention_mask[..., :time, :time]
            )
        if position_ids is not None:
            position_ids = position_ids[:, :time]
        shared = TableGradient() if self._shares_gradient() else None
        hidden = self.model(input_ids[:, :time], attention_mask, position_ids, shared=shared)  # (B, time, C)
        # Position t predicts label t + 1. Padding is needed for a row of one token only, which has no target.
        targets = F.pad(labels[:, 1:], (0, time - (labels.shape[1] - 1)), value=IGNORE).flatten()  # (B * time)
        hidden, is_target = hidden.flatten(0, 1), targets != IGNORE  # (B * time, C), (B * time)
        if not is_target.all():
            hidden, targets = hidden[is_target], targets[is_target]  # (targets, C), (targets)
        items = num_items_in_batch or len(targets)
        scale = 1 / items if items else math.nan  # the mean over no targets, as in torch
        return linear_cross_entropy(hidden, self.output_weight, targets, scale, shared)

    def _shares_gradient(self) -> bool:
        """Whether the head and the embedding are one table and may add to one gradient (see `TableGradient`)."""
        embedding = self.model.embed_tokens
        return self.lm_head is None and can_fuse(embedding.weight) and not has_hooks(embedding)

    def gradient_checkpointing_enable(self, **_: object) -> None:
        """In training, keep only each block's input and compute the rest again in the backward pass.

        The call has transformers' name; settings that transformers takes are accepted and not used.
        """
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all that the backward pass needs: this takes more memory, and saves one forward pass."""
        self.model.gradient_checkpointing = False


class Backbone(nn.Module):
    """Token ids to hidden states, the last norm included: all of the decoder but its head.

    Args:
        config: the decoder's shape.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.model_type == "gpt2":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        shared: TableGradient | None = None,
    ) -> Tensor:
        """The hidden states of every position.

        Args:
            input_ids: (batch, time).
            attention_mask: as for Decoder.
            position_ids: as for Decoder.
            past_key_values: as for Decoder.
            shared: where the table's gradient is added up, if the loss is going to use the table as well.

        Returns:
            (batch, time, width).

        Raises:
            CourseError: the text is longer than GPT-2's learned positions, or a mask's shape does not fit.
        """
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        batch, time = input_ids.shape
        # With a cache, the new tokens' positions go on where the earlier ones stopped.
        if position_ids is None:
            position_ids = torch.arange(past, past + time, device=input_ids.device)[None]  # (1, T)
        attention_mask = full_attention_mask(attention_mask, batch, time, past, input_ids.device)

        if shared is None:  # noqa: SIM108 - two cases, each with its reason
            x = self.embed_tokens(input_ids)  # (B, T, C)
        else:
            x = embed(input_ids, self.embed_tokens.weight, shared)
        cos = sin = None
        if self.config.model_type == "gpt2":
            if past + time > (limit := self.config.max_position_embeddings):
                raise CourseError(
                    f"{past + time} tokens are more than this model's {limit} learned positions. Shorten the text to "
                    f"{limit} tokens, or take a model with rotary positions (Llama)."
                )
            x = x + self.embed_positions(position_ids)
        else:
            cos, sin = rope(position_ids, self.config.head_dim, self.config.rope_theta)  # (B or 1, 1, T, D)
            cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        x = self.dropout(x)
        for layer in self.layers:  # x stays (B, T, C) from here to the end
            if self.gradient_checkpointing and self.training and past_key_values is None:
                x = checkpoint(layer, x, attention_mask, cos, sin, use_reentrant=False)
            else:
                x = layer(x, attention_mask, cos, sin, past_key_values)
        return self.norm(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        config: the decoder's shape.
        layer: the block's number, under which a cache keeps its keys and values.
    """

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = make_norm(config), make_norm(config)
        self.self_attn = Attention(config, layer)
        self.mlp = GELUMLP(config) if config.model_type == "gpt2" else SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Add what attention and the MLP compute to the residual stream.

        Args:
            x: the residual stream, (batch, time, width).
            attention_mask: as for `Attention.forward`.
            cos: as for `Attention.forward`.
            sin: as for `Attention.forward`.
            cache: as for `Attention.forward`.

        Returns:
            The residual stream, (batch, time, width).
        """
        # The norms are handed on, since the parts behind them can be computed faster together with them.
        x = x + self.dropout(self.self_attn(x, attention_mask, cos, sin, cache, norm=self.input_layernorm))
        return x + self.dropout(self.mlp(x, norm=self.post_attention_layernorm))


def make_norm(config: DecoderConfig) -> nn.Module:
    """The family's norm: LayerNorm (x - mean) / deviation * w + b for GPT-2, RMSNorm x / rms(x) * w for Llama.

    RMSNorm is eq. 4 of arXiv:1910.07467.
    """
    kind = nn.LayerNorm if config.model_type == "gpt2" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps)


class GELUMLP(nn.Module):
    """W2 gelu(W1 x + b1) + b2, gelu in its tanh form (arXiv:1606.08415)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Apply the MLP to every position.

        Args:
            x: (batch, time, width).
            norm: what x goes through first, or None.

        Returns:
            (batch, time, width).
        """
        x = x if norm is None else norm(x)
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # inside: (B, T, intermediate_size)


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x): one half decides how much of the other passes (arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Apply the MLP to every position.

        Args:
            x: (batch, time, width).
            norm: what x goes through first, or None.

        Returns:
            (batch, time, width).
        """
        return swiglu_mlp(x, self.gate_proj, self.up_proj, self.down_proj, norm)
