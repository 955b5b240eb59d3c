import torch

from course_lib.adapters import inject_lora, lora_layers
from course_lib.models.twin import twin


def test_same_tensors_other_modules(tiny_llama):
    other = twin(tiny_llama)
    for ours, theirs in zip(tiny_llama.parameters(), other.parameters(), strict=True):
        assert ours is theirs
    inject_lora(other, ["q_proj"], rank=2)
    assert not list(lora_layers(tiny_llama))
    tokens = torch.arange(9)[None]
    assert torch.equal(tiny_llama(tokens).logits, other(tokens).logits)
