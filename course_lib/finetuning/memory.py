"""How much memory a training run will take, by formula, before anything is loaded.

An estimate: it leaves out the process itself (Python and torch: about 0.4 GB; a GPU's context likewise), what the
allocator holds back (up to half as much again on a CPU), and kernels' own workspaces.
tests/finetuning/test_memory.py holds it against the tensors that torch saves for the backward pass, and against
the peak of a process.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from course_lib.adapters import butterfly_layers, lora_layers
from course_lib.adapters.layers import layer_sizes, linear_layers
from course_lib.errors import CourseError
from course_lib.training.master_weights import LOW_PRECISION

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = (4 + 0.127) / 8  # a weight, with doubly quantised constants (Dettmers et al. 2023, arXiv:2305.14314)


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes of one training step with one micro-batch.

    Attributes:
        weights: all parameters, trained or frozen.
        gradients: of the trained parameters, in their dtype.
        masters: float32 copies of the trained parameters that have 16 bits (see `training.master_weights`).
        moments: AdamW's two for each trained parameter, float32 for one of 16 bits too.
        activations: what the blocks keep for the backward pass.
        logits: and their gradient, which the loss leaves in their place.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum: what the run needs at its peak, by the formula."""
        states = self.weights + self.gradients + self.masters + self.moments
        return states + self.activations + self.logits


def estimate_memory(
    model: nn.Module, *, tokens: int, dtype: str, mode: str, autocast: bool = False, checkpoint: bool = False
) -> MemoryEstimate:
    """Estimate the memory of a training step by formula.

    With width h, query width q, key-value width k and MLP width m, a block keeps for each token 6h + 2q + 2k + 4m
    elements of Llama and 11h + 5m of GPT-2 in full training. On a frozen base, whose linear layers need not remember
    their inputs, it keeps 2h + 2q + 2k + 3m and 8h + 4m. An adapted layer adds its input. A butterfly adds twice its
    input for each stage.

    Args:
        model: with its adapter on. Its shapes suffice, so it may be on the meta device.
        tokens: tokens of a micro-batch, batch times time.
        dtype: of the base's weights.
        mode: "full" trains all weights; "qlora" keeps the linear layers in 4 bits.
        autocast: activations are 2 bytes wide.
        checkpoint: blocks keep only their input (gradient checkpointing).

    Returns:
        The bytes of each part.

    Raises:
        CourseError: the model's configuration lacks a size that the formula needs.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    trained_bytes = sum(p.numel() * p.element_size() for p in trained)
    masters = sum(4 * p.numel() for p in trained if p.dtype in LOW_PRECISION)
    moments = sum(2 * p.numel() * max(4, p.element_size()) for p in trained)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad) * BYTES[dtype]
    if mode == "qlora":
        linear = sum(out * into for name, (out, into) in _linear_sizes(model).items() if "lm_head" not in name)
        frozen -= int(linear * (BYTES[dtype] - NF4_BYTES))
    width = 2 if autocast else BYTES[dtype]  # bytes of one activation
    config: Any = model.config
    layers, kept = config.num_hidden_layers, block_elements(model, mode)
    # With checkpointing every block keeps its input, and one block at a time is computed again with all it keeps.
    elements = layers * config.hidden_size + kept if checkpoint else layers * kept
    # The loss is computed in float32 and leaves the logits' gradient in their place (`training.loss.summed_loss_`).
    logits = tokens * config.vocab_size * (4 if width == 4 else 4 + width)
    return MemoryEstimate(
        weights=trained_bytes + frozen,
        gradients=trained_bytes,
        masters=masters,
        moments=moments,
        activations=tokens * elements * width,
        logits=logits,
    )


def _linear_sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: layer_sizes(layer) for name, layer in linear_layers(model).items()}


def block_elements(model: nn.Module, mode: str) -> int:
    """Elements that one block keeps of one token for the backward pass, by `estimate_memory`'s formula.

    Args:
        model: with its adapter on.
        mode: "full" trains all weights; any other mode has a frozen base.

    Returns:
        The number of elements, an average over the blocks.
    """
    config: Any = model.config
    full = mode == "full"
    h, heads = config.hidden_size, config.num_attention_heads
    if config.model_type == "gpt2":
        m = config.n_inner or 4 * h
        kept = 11 * h + 5 * m if full else 8 * h + 4 * m
    else:
        m, head = _of(config, "intermediate_size"), getattr(config, "head_dim", None) or h // heads
        q, k = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
        kept = 6 * h + 2 * q + 2 * k + 4 * m if full else 2 * h + 2 * q + 2 * k + 3 * m
    inputs = {name.rpartition(".")[0]: layer_sizes(layer)[1] for name, layer in lora_layers(model)}  # q and v share one
    turned = sum(2 * layer.rotation.stages * layer_sizes(layer)[1] for _, layer in butterfly_layers(model))
    return kept + (sum(inputs.values()) + turned) // config.num_hidden_layers


def _of(config: Any, name: str) -> int:
    try:
        return getattr(config, name)
    except AttributeError:
        raise CourseError(
            f"The memory of a {config.model_type} cannot be estimated: its config has no {name}."
        ) from None
