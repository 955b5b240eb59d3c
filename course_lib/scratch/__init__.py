"""The NumPy edition: it writes every method by hand, needs only NumPy, and is imported in a fraction of a second.

A ladder of files, each adding one idea to the last: `tensor` (autograd), `functional`, `nn`, `gpt`, `optim`,
`tokenizer`, `instructions`, `trainer`, `lora`, `merge`, `benchmark`.
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
    "Tensor",
    "Trainer",
    "clip_grad_norm",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "log_softmax",
    "measured",
    "no_grad",
    "softmax",
    "warmup_cosine",
]
