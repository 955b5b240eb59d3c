"""Prepare a model for fast decoding on a CPU: fused products, folded norms, weights in fewer bits.

Decoding a token multiplies one vector with all weight matrices in turn, with some twenty small operations per layer
around the products. Here the products are few and large (q, k and v in one; gate and up in one). The weights of the
norms are folded into the matrices behind them, RoPE is one complex multiplication, and no memory is reallocated:

    RMSNorm(x) = sqrt(C) x / sqrt(norm(x)^2 + C eps) * w
    W RMSNorm(x) = (sqrt(C) W diag(w)) x / sqrt(norm(x)^2 + C eps)

Left out: GPT-2, biases, training. tests/inference/test_prepared.py compares logits and tokens with the original model,
and measures what each format costs.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.inference.caches.making import rotary_frequencies
from course_lib.inference.compiled import CompiledStep, missing_compiler
from course_lib.inference.products import PRODUCTS
from course_lib.models.attention import full_attention_mask
from course_lib.models.decoder import DecoderOutput
from course_lib.models.devices import device_of
from course_lib.vocabulary import FORMATS


class Product(Protocol):
    """x W^T in some format: see `products`."""

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T: (rows, in) to (rows, out)."""

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T.

        Args:
            total: (rows, out).
            x: (rows, in).

        Returns:
            (rows, out).
        """

    def for_compiler(self) -> None:
        """Store it as torch.compile can read it, before `one_row` is called."""

    def one_row(self, x: Tensor) -> Tensor:
        """x W^T for one row of x, as torch.compile should have it."""

    def tensors(self) -> list[Tensor]:
        """What is stored."""


def prepare(model: nn.Module, weights: str = "float32", compile: bool = False) -> "PreparedDecoder":
    """Make a copy of a model that decodes fast on a CPU. The original is not changed, and can be deleted.

    Adapters are folded in. In eight and four bits, the embedding stays in float32 because a token reads only one row of
    it, and so do the norms, softmax and the residual stream. With four bits, the head has eight.
    tests/inference/test_prepared.py measures what each format costs.

    Args:
        model: a Llama, ours or transformers', with or without adapters.
        weights: "float32", "bfloat16", "int8" or "int4".
        compile: whether torch.compile makes one function of a decoding step of one row with the static cache. The
            first token then takes up to minutes. `compiled` says what it gains. Without a C++ compiler, a note is
            printed, and nothing is compiled.

    Returns:
        A model for `generate`, in evaluation mode.

    Raises:
        CourseError: the format is unknown, or the model is not a Llama.

    Example:
        >>> from course_lib.inference import generate
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> _ = torch.manual_seed(0)
        >>> model = Decoder(CONFIGS["tiny-llama"]).eval()
        >>> generate(prepare(model), [[1, 2, 3]], 5) == generate(model, [[1, 2, 3]], 5)
        True
    """
    if weights not in PRODUCTS:
        raise CourseError(f"weights is {weights!r}; choose one of {', '.join(FORMATS)}.")
    prepared = PreparedDecoder(_plain(model), weights)
    if compile:
        if (name := missing_compiler()) is not None:
            print(f"note: no C++ compiler is installed ({name}), so compile=True changes nothing. Install g++ for it.")
        else:
            prepared.step = CompiledStep(prepared)
    return prepared.eval()


def _plain(model: Any) -> Any:
    """The Llama inside of wrappers, checked."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = getattr(getattr(plain, "config", None), "model_type", "unknown")
    if kind != "llama":
        raise CourseError(f"prepare is for Llama models, and this is {kind}: generate with the model as it is.")
    if device_of(plain).type != "cpu":
        raise CourseError("prepare makes a model for a CPU, and this one is on another device: move it with .cpu().")
    if any(getattr(layer.self_attn, "sinks", None) is not None for layer in plain.model.layers):
        raise CourseError("prepare does not know learned attention sinks: generate with the model as it is.")
    return plain


def _weight(layer: Any) -> Tensor:
    """A layer's weight as it acts, float32 (out, in), its adapter included."""
    if hasattr(layer, "exact_weight"):  # ours: AdaptedLayer
        return layer.exact_weight().float() if layer.enabled and not layer.merged else layer.matrix().float()
    if hasattr(layer, "get_delta_weight"):  # PEFT's
        weight = _weight(layer.base_layer)
        if not layer.merged and not layer.disable_adapters:
            for name in layer.active_adapters:
                weight = weight + layer.get_delta_weight(name).float()
        return weight
    if getattr(layer, "bias", None) is not None:
        raise CourseError("prepare does not know biases, and this model has some: generate with the model as it is.")
    weight = layer.weight.detach()  # our layer in 4 bits gives the weight that it stands for
    if not weight.is_floating_point():
        raise CourseError(
            f"prepare cannot read weights of type {weight.dtype}: a library has packed them. Load the model without, "
            "and let prepare pack it with weights='int8' or 'int4'."
        )
    return weight.float()


def neighbouring_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder each head's rows so that RoPE's pairs, i and i + head_dim / 2, become neighbours.

    Queries and keys are reordered alike, so their products do not change, and a pair is one complex number.

    Args:
        weight: of queries or keys, (heads * head_dim, in).
        head_dim: the width of a head.

    Returns:
        The same rows in their new order.
    """
    heads = weight.view(-1, 2, head_dim // 2, weight.shape[1])  # (heads, halves, D / 2, in)
    return heads.transpose(1, 2).reshape(weight.shape)


class _Layer:
    """One block's products.

    Args:
        block: of the model.
        config: the model's.
        head_dim: the width of a head.
        product: the class of the format.
    """

    def __init__(self, block: Any, config: Any, head_dim: int, product: Any):
        attention, mlp, scale = block.self_attn, block.mlp, math.sqrt(config.hidden_size)
        q, k = (neighbouring_pairs(_weight(layer), head_dim) for layer in (attention.q_proj, attention.k_proj))
        q_k_v = torch.cat([q, k, _weight(attention.v_proj)])  # (H D + 2 K D, C)
        gate_up = torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)])  # (2 M, C)
        self.q_k_v: Product = product(q_k_v, scale * block.input_layernorm.weight.detach().float())
        self.output: Product = product(_weight(attention.o_proj))
        self.gate_up: Product = product(gate_up, scale * block.post_attention_layernorm.weight.detach().float())
        self.down: Product = product(_weight(mlp.down_proj))


class PreparedDecoder(nn.Module):
    """A model from `prepare`. It is called like `Decoder`, with any of the caches.

    Args:
        model: a Llama that `prepare` has checked.
        weights: the format.
    """

    neighbours = True  # how keys in the cache are laid out: see `SinkCache`

    @torch.no_grad()
    def __init__(self, model: Any, weights: str):
        super().__init__()
        self.config, self.weights = model.config, weights
        self.generation_config = getattr(model, "generation_config", None)
        config, product = model.config, PRODUCTS[weights]
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        eps = config.norm_eps if hasattr(config, "norm_eps") else config.rms_norm_eps
        backbone = model.model
        table = backbone.embed_tokens.weight.detach().float()
        self.embedding = nn.Parameter(table.clone(), requires_grad=False)
        self.layers = [_Layer(block, config, self.head_dim, product) for block in backbone.layers]
        head = table if getattr(model, "lm_head", None) is None else _weight(model.lm_head)
        head_product: Any = PRODUCTS["int8" if weights == "int4" else weights]
        last_norm = math.sqrt(config.hidden_size) * backbone.norm.weight.detach().float()
        self.head: Product = head_product(head, last_norm)
        self.norm_floor = torch.tensor(math.sqrt(config.hidden_size * eps))
        self.rotary_frequencies = rotary_frequencies(model).cpu()
        self._cis = torch.zeros(0, 1, self.head_dim // 2, dtype=torch.complex64)
        self.step: CompiledStep | None = None  # the compiled pass of one token, where it was asked for

    def weight_bytes(self) -> int:
        """The bytes that the pass of one token reads: the weights of all products, without the embedding."""
        return sum(tensor.nbytes for product in self.products() for tensor in product.tensors())

    def products(self) -> Iterator[Product]:
        """All products, in the order of the pass."""
        for layer in self.layers:
            yield from (layer.q_k_v, layer.output, layer.gate_up, layer.down)
        yield self.head

    def turns(self, positions: Tensor) -> Tensor:
        """RoPE as complex numbers e^(i p f), (B, T, 1, D / 2), from a table that grows when it has to."""
        if len(self._cis) == 0 or int(positions.max()) >= len(self._cis):
            size = max(1024, 2 * (int(positions.max()) + 1))
            angles = torch.arange(size)[:, None].float() * self.rotary_frequencies  # (size, D / 2)
            self._cis = torch.polar(torch.ones_like(angles), angles)[:, None]
        return self._cis[positions]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> DecoderOutput:
        """Logits, as `Decoder.forward` gives them.

        Args:
            input_ids: (batch, time).
            attention_mask: 1 for tokens and 0 for padding, (batch, past + time); None where there is no padding.
            position_ids: (batch, time).
            past_key_values: a cache.
            use_cache: accepted for compatibility; the cache alone decides.
            logits_to_keep: for how many last positions to compute logits; 0 for all positions.

        Returns:
            Logits, (batch, time or logits_to_keep, vocabulary), and the cache.
        """
        batch, time = input_ids.shape
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + time, device=input_ids.device).expand(batch, time)
        turns = self.turns(position_ids)
        if self.step is not None and self.step.takes(input_ids, past_key_values):
            logits = self.step(input_ids, attention_mask, turns, past_key_values)
            return DecoderOutput(logits[:, None], None, past_key_values)
        mask = None
        if attention_mask is not None or (past and time > 1):
            mask = full_attention_mask(attention_mask, batch, time, past, input_ids.device)
        x = F.embedding(input_ids.flatten(), self.embedding)  # (B * T, C): products take rows
        for number, layer in enumerate(self.layers):
            x = self._layer(layer, number, x, turns, mask, past_key_values)
        if logits_to_keep and logits_to_keep < time:
            x = x.view(batch, time, -1)[:, -logits_to_keep:].flatten(0, 1)
        return DecoderOutput(
            self.head(normalise(x, self.norm_floor)).view(batch, -1, len(self.embedding)), None, past_key_values
        )

    def _layer(self, layer: _Layer, number: int, x: Tensor, turns: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """x + attention(norm(x)), then x + mlp(norm(x)), on (B * T, C)."""
        q_k, v = _attention_input(x, layer.q_k_v, turns, self.norm_floor, self.kv_heads, self.head_dim)
        q, k = q_k[:, : self.heads], q_k[:, self.heads :]  # (B, H, T, D) and (B, K, T, D)
        if cache is not None:
            k, v = cache.update(k, v, number)
        batch, heads, time, width = q.shape
        if time == 1 and (mask is None or mask.shape[0] == 1):
            # The queries that share keys become rows of one product: (B, H, 1, D) -> (B, K, H / K, D).
            q = q.reshape(batch, self.kv_heads, -1, width)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(batch, heads * width)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and time > 1, enable_gqa=True)
            mixed = mixed.transpose(1, 2).reshape(batch * time, heads * width)
        x = layer.output.added_to(x, mixed)
        return _mlp(x, layer.gate_up, layer.down, self.norm_floor)


def normalise(x: Tensor, floor: Tensor) -> Tensor:
    """x / sqrt(norm(x)^2 + C eps), which is RMSNorm without the part that is folded into the next matrix.

    Args:
        x: (rows, C).
        floor: sqrt(C eps), a scalar.

    Returns:
        (rows, C).
    """
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def _attention_input(
    x: Tensor, q_k_v: Product, turns: Tensor, floor: Tensor, kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Norm, projections and RoPE: (B * T, C) -> queries and keys (B, H + K, T, D), values (B, K, T, D)."""
    batch, time = turns.shape[:2]
    projected = q_k_v(normalise(x, floor)).view(batch, time, -1, head_dim)  # (B, T, H + 2 K, D)
    q_k, v = projected[:, :, :-kv_heads], projected[:, :, -kv_heads:]
    pairs = torch.view_as_complex(q_k.unflatten(-1, (-1, 2)))  # (B, T, H + K, D / 2)
    q_k = torch.view_as_real(pairs * turns).flatten(-2)
    return q_k.transpose(1, 2), v.transpose(1, 2)


def _mlp(x: Tensor, gate_up: Product, down: Product, floor: Tensor) -> Tensor:
    """x + W_down (silu(W_gate n) * W_up n) with n the norm of x, on (B * T, C)."""
    gate, up = gate_up(normalise(x, floor)).chunk(2, dim=-1)
    return down.added_to(x, F.silu(gate) * up)
