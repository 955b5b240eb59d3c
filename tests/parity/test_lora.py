"""Our LoRA against PEFT's: same files, same logits, same gradients, same training run."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from trained_by_hand import losses_by_hand

from course_lib.adapters import inject_lora, load_adapter, lora_layers, save_adapter
from course_lib.data import batches, style_corpus, token_blocks
from course_lib.parity import compare_losses
from course_lib.training import Trainer, TrainingConfig

TARGETS = ["q_proj", "v_proj", "down_proj"]


def test_peft_loads_ours(tiny_llama, tmp_path):
    base = copy.deepcopy(tiny_llama)
    inject_lora(tiny_llama, TARGETS, rank=4, alpha=12)
    for _, layer in lora_layers(tiny_llama):
        nn.init.normal_(layer.B)
    save_adapter(tiny_llama, tmp_path)
    theirs = PeftModel.from_pretrained(base, tmp_path)
    tokens = torch.randint(0, 97, (2, 20))
    # float32: the same three products in the same order; 1e-5 leaves room for another BLAS
    torch.testing.assert_close(theirs(tokens).logits, tiny_llama(tokens).logits, rtol=1e-5, atol=1e-5)


def test_we_load_pefts(tiny_llama, tmp_path):
    base = copy.deepcopy(tiny_llama)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS, task_type="CAUSAL_LM", init_lora_weights=False)
    theirs = get_peft_model(tiny_llama, config).eval()
    theirs.save_pretrained(tmp_path)
    load_adapter(base, tmp_path)
    tokens = torch.randint(0, 97, (2, 20))
    torch.testing.assert_close(base(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)


def test_same_initial_distribution():
    """PEFT's A is uniform in +-1/sqrt(in); ours has that bound and that variance (10,000 draws: 3 %)."""
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(nn.Linear(400, 400)), nn.Sequential(nn.Linear(400, 400))
    inject_lora(ours, ["0"], rank=25)
    peft = get_peft_model(theirs, LoraConfig(r=25, target_modules=["0"]))
    a_ours = next(lora_layers(ours))[1].A
    a_theirs = next(p for name, p in peft.named_parameters() if "lora_A" in name)
    assert a_theirs.abs().max() <= 400**-0.5
    assert a_ours.abs().max() <= 400**-0.5
    assert a_ours.var().item() == pytest.approx(a_theirs.var().item(), rel=0.03)
    assert a_ours.var().item() == pytest.approx(1 / (3 * 400), rel=0.03)


@pytest.mark.slow
@pytest.mark.weights
def test_same_training_run_on_the_real_model(smollm2, tmp_path):
    """Eight steps on SmolLM2: our layers and Trainer against PEFT's layers in a plain torch loop."""
    model, tokenizer = smollm2
    ours, base = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(0)
    inject_lora(ours, ["q_proj", "v_proj"], rank=8, alpha=16)
    save_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(base, tmp_path, is_trainable=True).train()
    blocks = token_blocks(style_corpus(), tokenizer, 32)
    order = list(batches(blocks, 2, 8, seed=0))

    records = Trainer(ours, TrainingConfig(lr=2e-3, warmup_steps=2), log_every=0).train(order)

    losses = losses_by_hand(theirs, order, lr=2e-3, warmup_steps=2)

    parity = compare_losses([record.loss for record in records], losses)
    # float32 rounding, fed back through eight updates; measured 2e-6 nats here
    assert parity.relative < 1e-4, parity
    assert losses[-1] < losses[0]
