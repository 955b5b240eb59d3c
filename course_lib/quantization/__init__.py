"""Quantisation: weights in few bits (`gguf`: how the packaged weights are stored)."""

from course_lib.quantization.gguf import BITS_PER_WEIGHT, dequantize_q4_1, dequantize_q8_0, storage

__all__ = ["BITS_PER_WEIGHT", "dequantize_q4_1", "dequantize_q8_0", "storage"]
