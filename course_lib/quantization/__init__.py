"""Quantisation: weights in few bits.

`levels` are the values that 4 bits stand for, `tensor` quantises block by block, `linear` is the layer that computes
with a weight in 4 bits, `model` puts it into a whole model, `files` loads and saves such models, and `gguf` says how
the packaged weights are stored.
"""

from course_lib.quantization.files import load_dequantized, load_quantized, save_quantized, stored_quantization
from course_lib.quantization.gguf import BITS_PER_WEIGHT, dequantize_q4_1, dequantize_q8_0, storage
from course_lib.quantization.levels import dynamic_map, fp4_levels, int4_levels, nf4_levels
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.model import dequantize_model, is_quantized, quantize_model
from course_lib.quantization.tensor import QuantizedTensor, quantize_4bit
from course_lib.vocabulary import QUANT_TYPES

__all__ = [
    "BITS_PER_WEIGHT",
    "QUANT_TYPES",
    "Linear4bit",
    "QuantizedTensor",
    "dequantize_model",
    "dequantize_q4_1",
    "dequantize_q8_0",
    "dynamic_map",
    "fp4_levels",
    "int4_levels",
    "is_quantized",
    "load_dequantized",
    "load_quantized",
    "nf4_levels",
    "quantize_4bit",
    "quantize_model",
    "save_quantized",
    "storage",
    "stored_quantization",
]
