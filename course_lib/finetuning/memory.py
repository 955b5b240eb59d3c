"""How much memory a model takes in training and in use, by formula, before anything is loaded: one calculator.

`course memory` prints it for any shape and `course train --dry-run` for a run. The parts do not all exist at once, so
the total is that of the worst of the moments in `AT_LOSS`, `AT_LAST_GRADIENT` and `IN_USE`. `LEFT_OUT` says what no
part counts. tests/finetuning/test_memory.py holds the activations against the tensors that torch saves for the backward
pass, and `course bench memory` holds the totals against the peaks of processes.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from course_lib.adapters import butterfly_layers, lora_layers
from course_lib.errors import CourseError
from course_lib.models.linear_layers import layer_sizes, linear_layers
from course_lib.training.master_weights import LOW_PRECISION

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NESTED_BLOCK = (
    256  # block constants that share a constant of their own (Dettmers et al. 2023, arXiv:2305.14314, sec. 3)
)
# What an optimiser keeps, and its bytes for each trained parameter.
OPTIMIZERS = {
    "adamw": ("2 moments", 8.0),
    "adamw-8bit": ("2 moments of 8 bits, a float32 constant for 256 of them", 2 * (1 + 4 / 256)),
    "sgd-momentum": ("1 velocity", 4.0),
    "sgd": ("no state", 0.0),
}
AT_LOSS, AT_LAST_GRADIENT, IN_USE = "at the loss", "at the last gradient", "in use"
TRAINING = (AT_LOSS, AT_LAST_GRADIENT)
LEFT_OUT = (
    "Python, torch and their libraries (0.4 GB on a CPU; a GPU's context likewise)",
    "what the allocator holds back: holes between blocks, on a CPU up to a quarter of the total",
    "workspaces of matrix products, and the small tables of 4-bit layers (1 KB each)",
    "loading: where the dtype changes, the file's pages and the copy are both in memory for a while",
)


@dataclass(frozen=True)
class MemorySettings:
    """What decides the memory, besides the model. The names are those of `course train`.

    Attributes:
        mode: "full" trains all weights; "qlora" keeps the linear layers in 4 bits; "inference" trains nothing.
        batch_size: rows of a micro-batch.
        seq_len: tokens of a row.
        dtype: of the base's weights.
        autocast: the dtype of the forward pass where it is another.
        gradient_checkpointing: blocks keep only their input.
        optimizer: a name in `OPTIMIZERS`.
        block_size: 4-bit weights that share a constant.
        double_quant: the constants are quantised to 8 bits in turn.
    """

    mode: str
    batch_size: int
    seq_len: int
    dtype: str = "float32"
    autocast: str | None = None
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    block_size: int = 64
    double_quant: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.batch_size * self.seq_len

    @property
    def width(self) -> int:
        """Bytes of one activation."""
        return BYTES[self.autocast or self.dtype]


@dataclass(frozen=True)
class Part:
    """One line of an estimate: what it is, its formula in words and numbers, its bytes, and when it exists."""

    name: str
    formula: str
    bytes: int
    when: tuple[str, ...] = TRAINING


@dataclass(frozen=True)
class MemoryEstimate:
    """The parts of an estimate; each part that is zero is left out."""

    parts: tuple[Part, ...]

    def __getitem__(self, name: str) -> int:
        """The bytes of the part of this name, 0 where there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    @property
    def moments(self) -> dict[str, int]:
        """The bytes at each moment."""
        found = dict.fromkeys((moment for part in self.parts for moment in part.when), 0)
        return {moment: sum(part.bytes for part in self.parts if moment in part.when) for moment in found}

    @property
    def total(self) -> int:
        """The bytes at the worst moment."""
        return max(self.moments.values())

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file: the parts, the moments, the total and what is left out."""
        return {
            "parts": [asdict(part) for part in self.parts],
            "moments": self.moments,
            "total": self.total,
            "left_out": list(LEFT_OUT),
        }


def estimate_memory(model: nn.Module, settings: MemorySettings) -> MemoryEstimate:
    """Estimate the memory of a training step with one micro-batch, or of inference, by formula.

    Args:
        model: with its adapter on. Its shapes suffice, so it may be on the meta device.
        settings: how it is used.

    Returns:
        The bytes of each part.

    Raises:
        CourseError: the model's configuration lacks a size that the formula needs.
    """
    parts = [*_base(model, settings)]
    if settings.mode == "inference":
        parts += _inference(model, settings)
    else:
        parts += [*_trained(model, settings), *_kept(model, settings), *_table_gradients(model, settings)]
        parts.append(_temporary(model, settings))
    return MemoryEstimate(tuple(part for part in parts if part.bytes))


# --- weights -------------------------------------------------------------------------------------------------------


def quantised_bytes(count: int, block_size: int = 64, double_quant: bool = True) -> tuple[int, int]:
    """The bytes of a 4-bit weight: two codes in a byte, and a float32 constant for each block.

    Double quantisation makes a constant 8 bits, with a float32 constant for 256 of them and a float32 mean. At blocks
    of 64 that is 8/64 + 32/(64 * 256) = 0.127 bits for each weight instead of 32/64 = 0.5.

    Args:
        count: the number of weights of one matrix.
        block_size: weights that share a constant.
        double_quant: whether the constants are quantised.

    Returns:
        (bytes of the codes, bytes of the constants).
    """
    codes, blocks = math.ceil(count / 2), math.ceil(count / block_size)
    constants = blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + 4 if double_quant else 4 * blocks
    return codes, constants


def _base(model: nn.Module, s: MemorySettings) -> list[Part]:
    """The parts of the frozen weights, and of those that full training changes."""
    when = (IN_USE,) if s.mode == "inference" else TRAINING
    base = [p.numel() for p in model.parameters() if s.mode in ("full", "inference") or not p.requires_grad]
    count, width = sum(base), BYTES[s.dtype]
    if s.mode != "qlora":
        parts = [Part("weights", f"{count:,} parameters x {width} bytes", count * width, when)]
        if s.autocast and s.dtype == "float32":
            half = sum(out * into for out, into in map(layer_sizes, linear_layers(model).values()))
            formula = f"{half:,} parameters of linear layers x {s.width} bytes: copies, kept for the backward pass"
            parts.append(Part("weights for autocast", formula, half * s.width, when[:1]))
        return parts
    linear = quantisable(model)
    sizes = [quantised_bytes(size, s.block_size, s.double_quant) for size in linear.values()]
    codes, constants = (sum(column) for column in zip(*sizes, strict=True))
    total, bits = sum(linear.values()), 8 * constants / sum(linear.values())
    rest = count - total
    return [
        Part("4-bit weights", f"{total:,} parameters of linear layers x 1/2 byte", codes, when),
        Part("block constants", f"{total:,} parameters x {bits:.3f} bits", constants, when),
        Part("other weights", f"{rest:,} (embedding, norms, head) x {width} bytes", rest * width, when),
    ]


def quantisable(model: nn.Module) -> dict[str, int]:
    """How many weights each linear layer has that mode qlora quantises, by its name: all layers but the head."""
    sizes = {name: layer_sizes(layer) for name, layer in linear_layers(model).items()}
    return {name: out * into for name, (out, into) in sizes.items() if "lm_head" not in name}


# --- what is trained -----------------------------------------------------------------------------------------------


def _trained(model: nn.Module, s: MemorySettings) -> list[Part]:
    """Adapter, float32 masters, the optimiser's state, gradients.

    An adapter is float32 on every base, and so is what the optimiser keeps of 16-bit weights.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    count, low = sum(p.numel() for p in trained), sum(p.numel() for p in trained if p.dtype in LOW_PRECISION)
    adapter = 0 if s.mode == "full" else sum(p.nbytes for p in trained)
    what, each = OPTIMIZERS[s.optimizer]
    width = 2 if low else 4
    return [
        Part("adapter", f"{count:,} parameters x 4 bytes", adapter),
        Part("master weights", f"{low:,} parameters x 4 bytes, float32", 4 * low),
        Part("optimiser state", f"{count:,} parameters x {each:g} bytes: {what}", int(each * count)),
        Part("gradients", f"{count:,} parameters x {width} bytes", sum(p.nbytes for p in trained), (AT_LAST_GRADIENT,)),
    ]


def _table_gradients(model: Any, s: MemorySettings) -> list[Part]:
    """What the head and the embedding add where they are trained: gradients as large as the table.

    A tied table gets two, one from the head and one from the embedding, and autograd adds them up in a third. Two of
    the three are beside those that `_trained` counts.
    """
    table = model.get_output_embeddings().weight
    if not table.requires_grad:
        return []
    width = BYTES[s.dtype]
    size, formula = table.numel() * width, f"{table.shape[0]:,} tokens x {table.shape[1]:,} x {width} bytes"
    tied = table is model.get_input_embeddings().weight
    twice = 2 * size if tied else 0
    return [
        Part("head's gradient", f"{formula}: the first gradient of the backward pass", size, (AT_LOSS,)),
        Part("tied gradients", f"2 x {formula}: the embedding's own, and the sum", twice, (AT_LAST_GRADIENT,)),
    ]


# --- activations ---------------------------------------------------------------------------------------------------


def _kept(model: Any, s: MemorySettings) -> list[Part]:
    """What the forward pass leaves for the backward pass, and the logits."""
    layers, h = model.config.num_hidden_layers, model.config.hidden_size
    kept = block_bytes(model, s.mode, s.width)
    # With checkpointing every block keeps its input, and one block at a time is computed again with all it keeps.
    per_token = layers * h * s.width + kept if s.gradient_checkpointing else layers * kept
    formula = f"{s.tokens:,} tokens x " + (
        f"({layers} inputs of {h:,} x {s.width} bytes + {kept:,} bytes of one block, computed again)"
        if s.gradient_checkpointing
        else f"{layers} blocks x {kept:,} bytes"
    )
    # The loss is computed in float32 and leaves the logits' gradient in their place (`training.loss.summed_loss_`).
    width = 4 if s.width == 4 else 4 + s.width
    vocabulary = model.config.vocab_size
    return [
        Part("activations", formula, s.tokens * per_token, (AT_LOSS,)),
        Part(
            "logits",
            f"{s.tokens:,} tokens x {vocabulary:,} x {width} bytes; their gradient takes their place",
            s.tokens * vocabulary * width,
            (AT_LOSS,),
        ),
    ]


def block_bytes(model: Any, mode: str, width: int) -> int:
    """Bytes that one block keeps of one token, with activations of `width` bytes.

    In half precision two things stay float32: the inputs of transformers' RMSNorm, and those of an adapter.

    Args:
        model: with its adapter on.
        mode: "full" trains all weights; any other mode has a frozen base.
        width: bytes of an activation, 2 or 4.

    Returns:
        The bytes, an average over the blocks.
    """
    norms = 0 if model.config.model_type == "gpt2" else 2 * model.config.hidden_size
    return width * block_elements(model, mode) + (4 - width) * (norms + _adapter_inputs(model))


def block_elements(model: Any, mode: str) -> int:
    """Elements that one block keeps of one token for the backward pass.

    With width h, query width q, key-value width k and MLP width m, a block keeps for each token 6h + 2q + 2k + 4m
    elements of Llama and 11h + 5m of GPT-2 in full training. On a frozen base, whose linear layers need not remember
    their inputs, it keeps 2h + 2q + 2k + 3m and 8h + 4m. An adapted layer adds its input. A butterfly adds twice its
    input for each stage.

    Args:
        model: with its adapter on.
        mode: "full" trains all weights; any other mode has a frozen base.

    Returns:
        The number of elements, an average over the blocks.
    """
    config: Any = model.config
    full, h = mode == "full", config.hidden_size
    if config.model_type == "gpt2":
        m = _mlp_width(config)
        kept = 11 * h + 5 * m if full else 8 * h + 4 * m
    else:
        m, q, k = _mlp_width(config), *_attention_widths(config)
        kept = 6 * h + 2 * q + 2 * k + 4 * m if full else 2 * h + 2 * q + 2 * k + 3 * m
    turned = sum(2 * layer.rotation.stages * layer_sizes(layer)[1] for _, layer in butterfly_layers(model))
    return kept + _adapter_inputs(model) + turned // config.num_hidden_layers


def _adapter_inputs(model: Any) -> int:
    """Elements of the inputs that LoRA's layers of one block keep, an average. q, k and v share one input."""
    inputs: dict[str, int] = {}
    for name, layer in lora_layers(model):
        shared, last = name.rpartition(".")[0], name.rpartition(".")[2]
        key = name if last in ("o_proj", "down_proj", "c_proj") else shared
        inputs[key] = layer_sizes(layer)[1]
    return sum(inputs.values()) // model.config.num_hidden_layers


def _attention_widths(config: Any) -> tuple[int, int]:
    """(width of the queries, width of the keys) of one token."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head


def _mlp_width(config: Any) -> int:
    if config.model_type == "gpt2":
        return config.n_inner or 4 * config.hidden_size
    try:
        return config.intermediate_size
    except AttributeError:
        raise CourseError(
            f"The memory of a {config.model_type} cannot be estimated: its config has no intermediate_size."
        ) from None


def _temporary(model: Any, s: MemorySettings) -> Part:
    """The largest array that lives for a moment: the weight that a 4-bit layer multiplies by, or an MLP's gradients."""
    m = 3 * s.tokens * _mlp_width(model.config) * s.width
    if s.mode != "qlora":
        return Part("largest temporary", f"3 x {s.tokens:,} tokens x MLP width x {s.width} bytes", m)
    count = max(quantisable(model).values())
    formula = f"{count:,} weights of the largest layer, dequantised, x {s.width} bytes, and an MLP's gradients"
    return Part("largest temporary", formula, count * s.width + m)


def _inference(model: Any, s: MemorySettings) -> list[Part]:
    """The cache of keys and values, the logits of each row's last token, and what one block computes of a prompt."""
    config: Any = model.config
    cached = 2 * config.num_hidden_layers * _attention_widths(config)[1]
    block = 3 * _mlp_width(config) + 2 * config.hidden_size
    logits = s.batch_size * config.vocab_size * 4
    return [
        Part("KV cache", f"{s.tokens:,} tokens x {cached:,} x {s.width} bytes", s.tokens * cached * s.width, (IN_USE,)),
        Part("logits", f"{s.batch_size} x {config.vocab_size:,} x 4 bytes, of the last token", logits, (IN_USE,)),
        Part(
            "largest temporary",
            f"{s.tokens:,} tokens of the prompt x {block:,} of one block x {s.width} bytes",
            s.tokens * block * s.width,
            (IN_USE,),
        ),
    ]
