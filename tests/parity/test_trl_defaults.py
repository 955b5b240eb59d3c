"""What TRL 1.16 has on by default, and what ours has instead: each test holds both."""

import numpy as np
import pytest
import torch

from course_lib.alignment.grpo import group_advantages
from course_lib.alignment.settings import DPOSettings, SFTSettings
from course_lib.alignment.sft import collate_packed, packed_rows
from course_lib.data import encode_record
from course_lib.data.batching import block_diagonal
from course_lib.data.control_tokens import control_tokens, told_of_control_tokens
from course_lib.data.records import Record, ask, reply
from course_lib.errors import CourseError
from course_lib.finetuning.settings import complete

CHAT = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Which lamp?"}, {"role": "assistant", "content": "The seventh lamp."}]


@pytest.fixture
def llama(model_folders):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folders / "llama").eval()


@pytest.mark.library(
    package="TRL",
    happens="bfloat16 and gradient checkpointing are on by default, and without a GPU a config is refused",
    expected="Defaults that run anywhere.",
    instead="On a CPU: `use_cpu=True, bf16=False, gradient_checkpointing=False`.",
    chapter="06_sft",
)
@pytest.mark.parametrize("name", ["SFTConfig", "DPOConfig", "GRPOConfig"])
def test_bfloat16_and_checkpointing_are_on_and_ours_are_off(tmp_path, name):
    import trl

    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="assign use_cpu"):
            getattr(trl, name)(str(tmp_path), report_to="none")
    theirs = getattr(trl, name)(str(tmp_path), report_to="none", use_cpu=True)
    assert theirs.bf16
    assert theirs.gradient_checkpointing
    for kind in (SFTSettings, DPOSettings):
        ours = complete({}, kind)
        assert (ours.dtype, ours.autocast, ours.gradient_checkpointing) == ("float32", None, False)


@pytest.mark.library(
    package="TRL",
    happens="Packing with the strategy “wrapped” cuts examples anywhere, and lets them attend to one another",
    expected="A packed example has the loss that it has alone.",
    instead="Keep the default strategy, “bfd”.",
    chapter="06_sft",
)
def test_wrapped_packing_lets_examples_see_each_other_and_ours_never(llama, tmp_path):
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    texts = [[5, 6, 7, 8, 9], [15, 16, 17, 18, 19], [25, 26, 27, 28, 29]]
    packs = pack_dataset(Dataset.from_list([{"input_ids": ids} for ids in texts]), 8, "wrapped")[:]
    assert packs == {"input_ids": [[5, 6, 7, 8, 9, 15, 16, 17], [18, 19, 25, 26, 27, 28, 29]]}  # the second is cut

    def next_token(ids, **inputs):
        with torch.no_grad():
            return llama(torch.tensor([ids]), **inputs).logits[0].log_softmax(-1)

    alone = next_token(texts[1])[1, 17]  # log p of its third token
    assert abs(next_token(packs["input_ids"][0])[6, 17] - alone) > 1e-3  # the same token after another example

    (row, _) = packed_rows([{"input_ids": ids, "labels": ids} for ids in texts], 10, 0)
    batch = collate_packed([row], [0], 0)
    mask = torch.as_tensor(block_diagonal(batch["segment_ids"]))
    found = next_token(row["input_ids"].tolist(), attention_mask=mask, position_ids=torch.tensor(batch["position_ids"]))
    place = int(np.flatnonzero(row["input_ids"] == 17)[0])
    torch.testing.assert_close(found[place - 1, 17], alone, atol=1e-5, rtol=0)


@pytest.mark.library(
    package="TRL",
    happens="`assistant_only_loss` is refused for a chat template without {% generation %} marks",
    expected="The assistant's turns are found in any template.",
    instead="Mark the turns in the template, or let `encode_record(train_on='assistant')` find them.",
    chapter="06_sft",
)
def test_turns_of_an_unmarked_template_are_refused_and_ours_finds_them(llama, tokenizer, tmp_path, monkeypatch):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", assistant_only_loss=True)
    rows = Dataset.from_list([{"messages": MESSAGES}])
    with pytest.raises(ValueError, match="not training-compatible"):
        SFTTrainer(llama, args=args, train_dataset=rows, processing_class=tokenizer)

    record = Record((*MESSAGES, ask("And the wind?"), reply("South.")))
    example = encode_record(record, tokenizer, train_on="assistant")
    trained = tokenizer.decode([label for label in example["labels"] if label >= 0])
    assert trained.replace("\n", "") == "The seventh lamp.<eos>South.<eos>"


def test_a_group_of_one_completion_is_refused_by_both(tmp_path):
    from trl import GRPOConfig

    with pytest.raises(ValueError, match="at least 2"):
        GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", num_generations=1)
    with pytest.raises(CourseError, match="group"):
        group_advantages(torch.ones(4), 1)
    theirs = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    assert (theirs.loss_type, theirs.beta, theirs.scale_rewards, theirs.num_generations) == ("dapo", 0.0, "group", 8)


@pytest.mark.weights
def test_smollm2s_template_writes_a_system_message_unasked_and_ours_learns_none_of_it():
    from course_lib.models.pretrained import load_tokenizer

    tokenizer = load_tokenizer()
    example = encode_record(Record(tuple(MESSAGES)), tokenizer)
    text = tokenizer.decode(example["input_ids"])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.decode([label for label in example["labels"] if label >= 0]).strip() == (
        "The seventh lamp.<|im_end|>"
    )
    assert control_tokens(tokenizer, "chat") == ["<|im_start|>", "<|im_end|>"]
    (line,) = told_of_control_tokens([Record((ask("Say <|im_end|>."), reply("No.")), source="a:1")], tokenizer, "chat")
    assert "turn there: 1, such as a:1 (<|im_end|>)" in line
    quiet = encode_record(Record(({"role": "system", "content": ""}, *MESSAGES)), tokenizer)
    assert "SmolLM" not in tokenizer.decode(quiet["input_ids"])
