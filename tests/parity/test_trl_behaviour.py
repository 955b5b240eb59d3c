"""Where TRL 1.16 does something that a run does not tell, and what ours does there: each test holds both."""

import json
import logging

import pytest
import torch

from course_lib.alignment.pairs import encode_pairs
from course_lib.alignment.sft import Supervised
from course_lib.data import encode_record, read_records
from course_lib.data.records import Record, ask, reply
from course_lib.evaluation import evaluate
from course_lib.training import Trainer, TrainingConfig

COMMON = dict(use_cpu=True, bf16=False, report_to="none")
CHAT = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tokenizer):
    before, tokenizer.chat_template = tokenizer.chat_template, CHAT
    yield tokenizer
    tokenizer.chat_template = before


@pytest.fixture
def llama(model_folders):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folders / "llama")


def dpo_trainer(llama, tokenizer, tmp_path, rows, **options):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(str(tmp_path), **COMMON, **options)
    return DPOTrainer(llama, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def sft_trainer(llama, tokenizer, tmp_path, rows, **options):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list(rows)
    args = SFTConfig(str(tmp_path), **COMMON, **options)
    return SFTTrainer(llama, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


@pytest.mark.library(
    package="TRL",
    happens="Text that was rendered with a chat template gets a second end token",
    expected="Text that ends with the end token is left as it is.",
    instead="Give SFTTrainer messages instead of text, or strip what follows the last end token (a line break, "
    "usually).",
    chapter="06_sft",
)
def test_text_that_was_rendered_before_gets_a_second_end_token(llama, chat_tokenizer, tmp_path):
    turns = [ask("Which?"), reply("This one.")]
    text = chat_tokenizer.apply_chat_template(turns, tokenize=False)
    (row,) = sft_trainer(llama, chat_tokenizer, tmp_path, [{"text": text}]).train_dataset
    end = chat_tokenizer.eos_token_id
    assert row["input_ids"].count(end) == 3  # one of each turn, and one more behind the last line break
    assert encode_record(Record(tuple(turns)), chat_tokenizer)["input_ids"].count(end) == 2


@pytest.mark.library(
    package="TRL",
    happens="What is longer than `max_length` loses its end, and with it the end token",
    expected="Rows that are too long are reported or left out.",
    instead="Count the rows that are too long before training. `course_lib.alignment` names them and leaves them "
    "out on request.",
    chapter="07_preferences",
)
def test_what_is_too_long_loses_its_end_token_without_a_word(llama, chat_tokenizer, tmp_path, caplog):
    pair = {"prompt": [ask("Which?")], "chosen": [reply("This one. " * 9)], "rejected": [reply("None. " * 9)]}
    with caplog.at_level(logging.INFO):
        trainer = dpo_trainer(llama, chat_tokenizer, tmp_path, [pair], max_length=30)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["input_ids"].shape[1] == 30
    assert not (batch["input_ids"][:, 20:] == chat_tokenizer.eos_token_id).any()
    assert "trunc" not in caplog.text.lower()

    record = Record((*pair["prompt"], *pair["chosen"]), rejected=pair["rejected"][0]["content"], source="a:1")
    ours = encode_pairs([record], chat_tokenizer, max_length=30)
    assert (ours.cut, len(ours.pairs)) == (1, 1)
    left_out = encode_pairs([record], chat_tokenizer, max_length=30, too_long="skip")
    assert left_out.dropped == {"too long": ["a:1"]}


@pytest.mark.library(
    package="TRL",
    happens="A pair whose prompt fills the row disappears from the training set",
    expected="Every row is trained on, or an error names the row.",
    instead="Compare the number of rows before and after the trainer has been made.",
    chapter="07_preferences",
)
def test_a_pair_whose_prompt_fills_the_row_disappears_and_ours_is_named(llama, chat_tokenizer, tmp_path):
    def pair(question):
        return {"prompt": [ask(question)], "chosen": [reply("Yes.")], "rejected": [reply("No.")]}

    rows = [pair("Which?"), pair("Which? " * 20)]
    assert len(dpo_trainer(llama, chat_tokenizer, tmp_path, rows, max_length=40).train_dataset) == 1
    records = [Record((*row["prompt"], reply("Yes.")), rejected="No.", source=f"a:{n}") for n, row in enumerate(rows)]
    assert encode_pairs(records, chat_tokenizer, max_length=40).dropped == {"truncated": ["a:1"]}


def test_pairs_of_equal_responses_are_kept(llama, chat_tokenizer, tmp_path):
    same = {"prompt": [ask("Which?")], "chosen": [reply("This.")], "rejected": [reply("This.")]}
    assert len(dpo_trainer(llama, chat_tokenizer, tmp_path, [same]).train_dataset) == 1
    record = Record((ask("Which?"), reply("This.")), rejected="This.", source="a:1")
    assert encode_pairs([record], chat_tokenizer).dropped == {"identical": ["a:1"]}


@pytest.mark.library(
    package="TRL",
    happens="`extract_prompt` ends inside the answers when both begin alike: the prompt of HH-RLHF is cut in the "
    "middle of a word",
    expected="The prompt ends with “Assistant:”.",
    instead="Split at the last “Assistant:” yourself; `course_lib.data.read_records` does.",
    chapter="07_preferences",
)
def test_the_prompt_of_hh_ends_inside_answers_that_begin_alike(chat_tokenizer, tmp_path):
    """445 of the 2,312 pairs of HH-RLHF's harmless test part are cut so; ours ends where the assistant begins."""
    from trl.data_utils import extract_prompt

    asked = "\n\nHuman: Which engine?\n\nAssistant:"
    row = {"chosen": f"{asked} Duckduckgo is private.", "rejected": f"{asked} Dogpile."}
    assert extract_prompt(row)["prompt"] == f"{asked} D"

    path = tmp_path / "hh.jsonl"
    path.write_text(json.dumps(row))
    (record,) = read_records(path).records
    (pair,) = encode_pairs([record], chat_tokenizer).pairs
    assert chat_tokenizer.decode(pair["prompt"]) == "user: Which engine?<eos>\nassistant: "
    assert chat_tokenizer.decode(pair["chosen"]) == "Duckduckgo is private.<eos>\n"


@pytest.mark.library(
    package="TRL",
    happens="`eval_loss` is a mean of batch means weighted by rows; the training loss is a mean over tokens",
    expected="Training loss and held-out loss are averaged in the same way.",
    instead="Use one batch size for all comparisons, or measure with `course_lib.evaluation.evaluate`, which counts "
    "tokens.",
    chapter="06_sft",
)
def test_an_evaluation_is_averaged_over_rows_and_ours_over_tokens(llama, chat_tokenizer, tmp_path):
    """Training weighs every token alike in both; TRL's evaluation weighs a batch by its rows."""
    turns = [(ask("Which?"), reply("A.")), (ask("Which?"), reply("The seventh lamp from the left, " * 4))]
    rows = [{"prompt": [q], "completion": [a]} for q, a in turns]
    trainer = sft_trainer(llama, chat_tokenizer, tmp_path, rows, per_device_eval_batch_size=1, max_length=None)
    theirs = trainer.evaluate()["eval_loss"]

    examples = [encode_record(Record(pair), chat_tokenizer) for pair in turns]
    each = [evaluate(llama, [example]).loss for example in examples]
    ours = evaluate(llama, examples, 1).loss
    assert theirs == pytest.approx(sum(each) / 2, rel=1e-5)
    sizes = [sum(label >= 0 for label in example["labels"]) for example in examples]
    assert ours == pytest.approx((each[0] * sizes[0] + each[1] * sizes[1]) / sum(sizes), rel=1e-5)
    assert abs(ours - theirs) > 1e-3


@pytest.mark.library(
    package="TRL",
    happens="DPO on a model that has an adapter takes the adapter, and not the base, as its reference",
    expected="The reference is the base model with the adapter switched off.",
    instead="Decide which one you want. For the base, merge the adapter first or pass a `peft_config`.",
    chapter="07_preferences",
)
def test_an_adapter_that_comes_in_is_its_own_reference(llama, chat_tokenizer, tmp_path):
    """TRL freezes a copy of the adapter as it is; ours does so on request, and otherwise takes the base."""
    from peft import LoraConfig, get_peft_model

    from course_lib.adapters import inject_lora
    from course_lib.alignment.objective import PreferenceObjective, evaluate_preferences
    from course_lib.alignment.reference import AdapterOff, FrozenCopy

    pairs = [{"prompt": [ask("Which?")], "chosen": [reply("This.")], "rejected": [reply("That one.")]}]
    records = [Record((ask("Which?"), reply("This.")), rejected="That one.")]
    adapted = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    trainer = dpo_trainer(adapted, chat_tokenizer, tmp_path, pairs, gradient_checkpointing=False)
    with torch.no_grad():
        trainer._compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)), False)
    assert trainer._metrics["train"]["rewards/margins"] == [0.0]

    model = adapted.unload()
    inject_lora(model, ["q_proj"], rank=4)
    for name, parameter in model.named_parameters():
        if ".B" in name:
            torch.nn.init.normal_(parameter)
    found = encode_pairs(records, chat_tokenizer).pairs
    copied = evaluate_preferences(model, PreferenceObjective(FrozenCopy(model)), found)
    assert copied["margins"] == 0.0
    assert abs(evaluate_preferences(model, PreferenceObjective(AdapterOff()), found)["margins"]) > 1e-4


@pytest.mark.library(
    package="TRL",
    happens="`disable_dropout`, which is on by default in DPO, sets `lora_dropout` to 0, and the saved "
    "configuration still says 0.5",
    expected="The configuration of an adapter says how it was trained.",
    instead="Read `module.p` and not the configuration; set `disable_dropout=False` when dropout is part of the "
    "experiment.",
    chapter="07_preferences",
)
def test_disable_dropout_reaches_the_adapters_and_not_the_attentions(llama, chat_tokenizer, tmp_path):
    """TRL sets lora_dropout to 0, and the configuration that it saves says 0.5; an attention's dropout stays on."""
    from peft import LoraConfig

    llama.config.attention_dropout = 0.5
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.5
    pair = {"prompt": [ask("Which?")], "chosen": [reply("This.")], "rejected": [reply("That one.")]}
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        llama, args=DPOConfig(str(tmp_path), **COMMON), train_dataset=Dataset.from_list([pair]),
        processing_class=chat_tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM"),
    )  # fmt: skip
    kept = [module.p for name, module in trainer.model.named_modules() if name.endswith("lora_dropout.default")]
    assert set(kept) == {0.0}
    assert trainer.model.peft_config["default"].lora_dropout == 0.5
    assert trainer.model.base_model.model.model.layers[0].self_attn.attention_dropout == 0.5


def test_a_step_weighs_every_token_alike_in_both(llama, chat_tokenizer, tmp_path):
    turns = [(ask("Which?"), reply("A.")), (ask("Which?"), reply("The seventh lamp from the left, " * 4))]
    rows = [{"prompt": [q], "completion": [a]} for q, a in turns]
    options = dict(per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=1, learning_rate=1e-12)
    trainer = sft_trainer(llama, chat_tokenizer, tmp_path, rows, logging_steps=1, save_strategy="no", **options)
    trainer.train()
    theirs = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    examples = [encode_record(Record(pair), chat_tokenizer) for pair in turns]
    config = TrainingConfig(lr=1e-12, grad_accum_steps=2)
    batches = [{key: torch.tensor([values]) for key, values in example.items()} for example in examples]
    ours = Trainer(llama, config, objective=Supervised(), log_every=0).step(0, 1, batches).loss
    assert ours == pytest.approx(theirs, rel=1e-5)
