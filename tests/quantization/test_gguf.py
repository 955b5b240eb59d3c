"""GGUF's block formats, by worked arithmetic and against the gguf package on the real file."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from course_lib.models.pretrained import PACKAGED
from course_lib.quantization import BITS_PER_WEIGHT, dequantize_q4_1, dequantize_q8_0, storage

GGUF = PACKAGED["smollm2-135m-instruct"].gguf_path()


def test_worked_block():
    """d = 0.5, m = -1, first byte 0x2F: weight 0 is 0.5 * 15 - 1 = 6.5 and weight 16 is 0.5 * 2 - 1 = 0."""
    block = np.zeros((1, 20), dtype=np.uint8)
    block[0, :4] = np.array([0.5, -1.0], dtype=np.float16).view(np.uint8)
    block[0, 4] = 0x2F
    weights = dequantize_q4_1(block)[0]
    assert weights[0] == 6.5
    assert weights[16] == 0.0
    assert (np.delete(weights, [0, 16]) == -1.0).all()


@pytest.mark.parametrize(
    ("function", "kind", "width"),
    [(dequantize_q4_1, GGMLQuantizationType.Q4_1, 20), (dequantize_q8_0, GGMLQuantizationType.Q8_0, 34)],
)
def test_random_blocks_equal_the_reference(function, kind, width):
    blocks = np.random.default_rng(0).integers(0, 256, (50, width), dtype=np.uint8)
    constants = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float16).view(np.uint8)
    blocks[:, : 4 if width == 20 else 2] = constants[:, : 4 if width == 20 else 2]  # no NaN constants
    assert np.array_equal(function(blocks), dequantize(blocks, kind).reshape(50, 32))  # same float32 arithmetic


@pytest.mark.weights
def test_real_file(smollm2):
    """One real tensor equals what transformers loaded, and the storage adds up to the file but for its header."""
    tensor = next(t for t in GGUFReader(GGUF).tensors if t.name == "blk.0.ffn_down.weight")
    ours = dequantize_q4_1(tensor.data.reshape(-1, 20)).reshape(576, 1536)
    assert np.array_equal(ours, smollm2[0].model.layers[0].mlp.down_proj.weight.detach().numpy())
    spent = storage(GGUF)
    assert list(spent) == ["Q4_1", "Q8_0", "F32"]
    assert 0.97 < sum(spent.values()) / GGUF.stat().st_size < 1
    assert BITS_PER_WEIGHT["Q4_1"] == 5.0
    assert BITS_PER_WEIGHT["Q8_0"] == 8.5
