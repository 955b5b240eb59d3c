"""The log-probability of a response: log p summed over its tokens, with logits only where there is a label."""

from typing import Any

import torch
from torch import Tensor, nn

from course_lib.data.masking import IGNORE
from course_lib.models.decoder import Backbone, Decoder
from course_lib.models.fused_loss import token_log_probs

# Models of transformers whose logits are the head's product with the last hidden states and nothing else. Others scale
# or bound their logits afterwards (Gemma 2, Granite, Cohere), so they are asked for the logits themselves.
PLAIN_HEADS = ("llama", "gpt2", "mistral", "qwen2", "qwen3", "smollm3")


def sequence_log_probs(model: nn.Module, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
    """log p(y | x) of each row: the sum of log p(token t+1 | tokens up to t) over the labels that are not IGNORE.

    Checked in tests/alignment/test_log_probs.py against log_softmax of all logits, and through the losses against TRL.

    Args:
        model: a causal language model, ours or transformers', with or without an adapter.
        input_ids: (batch, time).
        labels: (batch, time), unshifted: the tokens of the response, IGNORE (-100) in the prompt and in the padding.
        inputs: the model's other arguments, such as attention_mask (batch, time).

    Returns:
        (batch,), in nats, with a gradient where gradients are recorded. A row without a label has 0.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> model = Decoder(CONFIGS["tiny-llama"])
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> labels = torch.tensor([[IGNORE, IGNORE, 7, 8]])  # a prompt of two tokens
        >>> log_p = sequence_log_probs(model, ids, labels)
        >>> expected = model(ids).logits.log_softmax(-1)[0, [1, 2], [7, 8]].sum()
        >>> torch.allclose(log_p[0], expected, atol=1e-5)
        True
    """
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORE, as_tuple=True)  # position t predicts label t + 1
    found = log_probs_at(model, {"input_ids": input_ids, **inputs}, rows, columns, labels[rows, columns + 1])
    return found.new_zeros(len(labels)).index_add(0, rows, found)


def log_probs_at(model: nn.Module, inputs: dict[str, Tensor], rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
    """log p(target) as the model predicts it at some positions of a batch.

    A position may have several targets: the last token of a prompt predicts the first token of two responses.

    Args:
        model: a causal language model.
        inputs: the arguments of the model; "input_ids" is (batch, time).
        rows: (count,), the row of each position.
        columns: (count,), its place in the row.
        targets: (count,), the token ids.

    Returns:
        (count,), in nats, float32 or wider.
    """
    parts = backbone_and_head(model)
    if parts is None:
        return _from_logits(model, inputs, rows, columns, targets)
    backbone, weight = parts
    hidden = hidden_states(backbone, inputs)  # (batch, time, width)
    return token_log_probs(hidden[rows, columns], weight, targets)


def hidden_states(backbone: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The last hidden states, after the last norm.

    Args:
        backbone: from `backbone_and_head`.
        inputs: the model's arguments.

    Returns:
        (batch, time, width).
    """
    if isinstance(backbone, Backbone):
        return backbone(**inputs)
    return backbone(**inputs, use_cache=False).last_hidden_state


def _from_logits(model: Any, inputs: dict, rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
    """The same through the model's own logits."""
    logits = model(**inputs).logits[rows, columns]  # (count, vocabulary)
    # As cross-entropy does it, in float32 where the logits are narrower.
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def backbone_and_head(model: Any) -> tuple[Any, Tensor] | None:
    """The part of a model that computes hidden states, and the head's matrix, if their product is the logits.

    A model that is wrapped for several processes, sharded or compiled has to be called as a whole.

    Args:
        model: a causal language model.

    Returns:
        (backbone, (vocabulary, width)); None where the model does something else to get its logits.
    """
    if isinstance(model, Decoder):
        is_plain = type(model) is Decoder and (model.lm_head is None or type(model.lm_head) is nn.Linear)
        return (model.model, model.output_weight) if is_plain else None
    kind = getattr(getattr(model, "config", None), "model_type", None)
    # PEFT's wrapper has the configuration of its base, and a base_model that is not the backbone.
    if kind not in PLAIN_HEADS or not type(model).__module__.startswith("transformers."):
        return None
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None  # an adapter on the head, or a quantised one
    return model.base_model, head.weight
