"""The NumPy edition: it writes every method by hand, needs only NumPy, and is imported in a fraction of a second.

A ladder of files, each adding one idea to the last: `tensor` (autograd), `functional`, `nn`, `gpt`, `optim`,
`tokenizer`, `instructions`, `trainer`, `lora`, `merge`, `quantization`, `benchmark`, `preferences`.
"""

from course_lib.data import InstructionFormatter
from course_lib.scratch.benchmark import Benchmark, measured
from course_lib.scratch.functional import cross_entropy, dropout, embedding, gelu, layer_norm, log_softmax, softmax
from course_lib.scratch.gpt import GPT
from course_lib.scratch.instructions import DataCollator, FinetuneDataset
from course_lib.scratch.lora import LoRALinear, LoRAModel
from course_lib.scratch.merge import LoRAMerger
from course_lib.scratch.nn import Embedding, LayerNorm, Linear, Module
from course_lib.scratch.optim import SGD, AdamW, clip_grad_norm, warmup_cosine
from course_lib.scratch.preferences import dpo_gradient, dpo_loss, sequence_log_probs
from course_lib.scratch.quantization import Quantized4bit, dequantize_4bit, nf4_levels, quantize_4bit
from course_lib.scratch.tensor import Tensor, no_grad
from course_lib.scratch.tokenizer import BPETokenizer
from course_lib.scratch.trainer import Trainer

__all__ = [
    "GPT",
    "SGD",
    "AdamW",
    "BPETokenizer",
    "Benchmark",
    "DataCollator",
    "Embedding",
    "FinetuneDataset",
    "InstructionFormatter",
    "LayerNorm",
    "Linear",
    "LoRALinear",
    "LoRAMerger",
    "LoRAModel",
    "Module",
    "Quantized4bit",
    "Tensor",
    "Trainer",
    "clip_grad_norm",
    "cross_entropy",
    "dequantize_4bit",
    "dpo_gradient",
    "dpo_loss",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "log_softmax",
    "measured",
    "nf4_levels",
    "no_grad",
    "quantize_4bit",
    "sequence_log_probs",
    "softmax",
    "warmup_cosine",
]
