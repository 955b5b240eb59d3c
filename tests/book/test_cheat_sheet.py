"""The worked numbers of the cheat sheet, computed again."""

import math
import re
from math import comb
from pathlib import Path

import pytest
import torch

from course_lib.adapters import butterfly_parameter_count, lora_parameter_count
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder

PAGE = (Path(__file__).parents[2] / "book" / "cheat-sheet.md").read_text(encoding="utf-8")
SMOL = CONFIGS["smollm2-135m"]


def blocks_of_gpt2():
    with torch.device("meta"):
        model = Decoder(CONFIGS["gpt2"])
    total = sum(p.numel() for p in model.parameters())
    return f"{12 * 12 * 768**2 / 1e6:.0f} million of {total / 1e6:.0f} million"


def cache_numbers():
    return 2 * SMOL.num_hidden_layers * SMOL.num_key_value_heads * (SMOL.hidden_size // SMOL.num_attention_heads)


def smollm2_bytes():
    with torch.device("meta"):
        return 4 * sum(p.numel() for p in Decoder(SMOL).parameters())


WORKED = {
    "blocks": blocks_of_gpt2,
    "c_attn": lambda: f"{lora_parameter_count([(2304, 768)] * 12, 8):,}",
    "query and value": lambda: f"{lora_parameter_count([(576, 576), (192, 576)] * 30, 8):,}",
    "butterfly": lambda: f"{butterfly_parameter_count(128, 7):,}",
    "bits": lambda: f"{4 + 32 / 64:g} bits",
    "double": lambda: f"{4 + 8 / 64 + 32 / (64 * 256):.3f} bits",
    "QLoRA": lambda: f"{(4 + 8 / 64 + 32 / (64 * 256)) / 8:.3f}\\,P",
    "logits": lambda: f"{4 * 512 * SMOL.vocab_size / 1e6:.0f} MB",
    "cache": lambda: f"{cache_numbers():,} numbers, {4 * cache_numbers() / 1024:.0f} KiB",
    "Llama-2": lambda: f"Llama-2-7B {2 * 2 * 32 * 32 * 128 // 1024} KiB",
    "Llama-3": lambda: f"Llama-3-8B {2 * 2 * 32 * 8 * 128 // 1024} KiB",
    "reading": lambda: f"{smollm2_bytes() / 1e6:.0f} MB per token",
    "ln V": lambda: f"{math.log(SMOL.vocab_size):.2f}",
    "step": lambda: f"{math.sqrt(3 * 576 / 8) / 2:.1f}",
    "ln 2": lambda: f"{math.log(2):.4f}",
    "best of 16": lambda: f"{math.log(16) - 15 / 16:.3f}",
    "pass at 5": lambda: f"{1 - comb(8, 5) / comb(10, 5):.3f}",
    "speculation": lambda: f"{(1 - 0.6**3) / 0.4:.2f}; 0.9 and 10: {(1 - 0.9**11) / 0.1:.2f}",
}


@pytest.mark.parametrize("what", WORKED)
def test_worked_number(what):
    assert re.search(rf"(?<![\d.,]){re.escape(WORKED[what]())}", PAGE), WORKED[what]()
