"""What accelerate and TRL do that changes a training run and raises nothing."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def accelerators():
    """Makes Accelerators, and forgets their common state afterwards."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = (AcceleratorState, GradientState, PartialState)
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    yield lambda **settings: Accelerator(cpu=True, **settings)
    for state, kept in zip(states, before, strict=True):
        state._shared_state.clear()
        state._shared_state.update(kept)


@pytest.mark.library(
    package="accelerate",
    happens="A second `Accelerator()` in the process switches off the first one's gradient accumulation",
    expected="`gradient_accumulation_steps` belongs to the `Accelerator` that it was given to.",
    instead="Make one `Accelerator` and hand it on, to the evaluation as well.",
    chapter="02_full_finetuning",
)
def test_a_second_accelerator_ends_accumulation(accelerators):
    first = accelerators(gradient_accumulation_steps=4)
    assert first.gradient_accumulation_steps == 4
    accelerators()
    assert first.gradient_accumulation_steps == 1


def steps_with_an_update(accelerator, limit):
    """In which micro-batches of two epochs of ten gradients are applied, with an evaluation of `limit` batches."""
    model = torch.nn.Linear(1, 1)
    loaders = DataLoader(torch.ones(10, 1)), DataLoader(torch.ones(6, 1))
    model, training, held_out = accelerator.prepare(model, *loaders)
    steps = []
    for epoch in (1, 2):
        for step, _ in enumerate(training, start=1):
            with accelerator.accumulate(model):
                if accelerator.sync_gradients:
                    steps.append((epoch, step))
            if step == 6:
                for number, _ in enumerate(held_out, start=1):
                    if number == limit:
                        break
    return steps


@pytest.mark.library(
    package="accelerate",
    happens="After an evaluation that was left by `break`, an epoch's left-over gradients are not applied at its end",
    expected="The last micro-batches of an epoch are applied there, whatever evaluation ran in between.",
    instead="Walk the held-out loader to its end, or give it fewer rows: `break` leaves it as the active one.",
    chapter="02_full_finetuning",
)
def test_break_hides_the_end_of_the_epoch(accelerators):
    accelerator = accelerators(gradient_accumulation_steps=4)
    whole = steps_with_an_update(accelerator, limit=None)
    assert whole == [(epoch, step) for epoch in (1, 2) for step in (4, 8, 10)]
    cut = steps_with_an_update(accelerator, limit=2)
    assert (1, 8) in cut
    assert (1, 10) not in cut


def word_tokenizer():
    words = ["<pad>", "<eos>", "<unk>", *"Which lamp ? The seventh . None of them".split()]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def first_dpo_loss(config, folder):
    """DPO's loss before any step, where the policy is an adapter that has been trained."""
    from datasets import Dataset
    from peft import get_peft_model
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **sizes))
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    rows = Dataset.from_list([{"prompt": "Which lamp?", "chosen": " The seventh.", "rejected": " None of them."}])
    args = DPOConfig(str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False)
    trainer = DPOTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


@pytest.mark.library(
    package="TRL",
    happens="The reference of `DPOTrainer` for a trained adapter lacks its embedding, its new tokens and all of VeRA",
    expected="The reference is a frozen copy of the adapter, so that the first loss is log 2.",
    instead="Give `ref_model`, a second model with the adapter merged into it.",
    chapter="07_preferences",
)
def test_the_reference_is_no_copy(tmp_path):
    from peft import LoraConfig

    plain = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert first_dpo_loss(plain, tmp_path) == pytest.approx(math.log(2), abs=1e-5)
    embedded = LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    assert abs(first_dpo_loss(embedded, tmp_path) - math.log(2)) > 1e-3
