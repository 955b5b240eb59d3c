"""More of what TRL 1.16 and PEFT 0.21 do without a word, and what ours does there: each test holds both.

Adapters without a base to go back to, a policy with dropout, rewards that are missing, the reference's values, reward
models, rows that were tokenised before, and packing.
"""

import copy

import pytest
import torch

from course_lib.adapters import disable_adapters, inject_lora, load_adapter
from course_lib.alignment.grpo import group_advantages
from course_lib.alignment.objective import PreferenceObjective, evaluate_preferences
from course_lib.alignment.pairs import Pairs, encode_pairs
from course_lib.alignment.reference import AdapterOff, compute_reference
from course_lib.data import encode_record, pack
from course_lib.data.records import Record, ask, reply
from course_lib.errors import CourseError
from course_lib.evaluation.calibration import auc
from course_lib.models.huggingface import load_decoder
from course_lib.models.verifier import Verifier

COMMON = dict(use_cpu=True, bf16=False, report_to="none")
LN_2 = 0.6931472
PAIR = {"prompt": "Which lamp?", "chosen": " The seventh lamp.", "rejected": " None of them."}
RECORD = Record((ask("Which lamp?"), reply("The seventh lamp.")), rejected="None of them.", source="a:1")


@pytest.fixture
def llama(model_folders):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folders / "llama")


def dpo_trainer(model, tokenizer, tmp_path, **options):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    peft_config = options.pop("peft_config", None)
    args = DPOConfig(str(tmp_path), gradient_checkpointing=False, **COMMON, **options)
    rows = Dataset.from_list([PAIR])
    return DPOTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


def first_loss(trainer):
    """TRL's loss before any step, in training mode, as its first step computes it."""
    torch.manual_seed(0)
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        return float(trainer._compute_loss(trainer.model, batch, False))


def decomposed(init):
    """An adapter that begins as a part of the base: "pissa" or "olora"."""
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=init, task_type="CAUSAL_LM")


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 13)[None]).logits


@pytest.mark.library(
    package="PEFT",
    happens="With PiSSA and OLoRA, `disable_adapter` and `unload` give the remainder of the base, and not the base",
    expected="Switching the adapter off gives the model that was loaded.",
    instead="Load the base again, or load the adapter with `course_lib.adapters.load_adapter`, which turns it into "
    "plain LoRA.",
    chapter="04_merging",
)
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_pissa_has_no_base_to_go_back_to_and_ours_has(llama, tmp_path, init):
    """PEFT's `unload` and `disable_adapter` leave the remainder of the base. Ours is put on the base as it is."""
    from peft import get_peft_model

    before, ours = logits(llama), copy.deepcopy(llama)
    theirs = get_peft_model(llama, decomposed(init))
    torch.testing.assert_close(logits(theirs), before, atol=1e-4, rtol=0)
    theirs.save_pretrained(tmp_path)
    with theirs.disable_adapter():
        assert (logits(theirs) - before).abs().max() > 1e-3
    assert (logits(theirs.unload()) - before).abs().max() > 1e-3

    load_adapter(ours, tmp_path)
    with disable_adapters(ours):
        assert torch.equal(logits(ours), before)


@pytest.mark.library(
    package="TRL",
    happens="DPO with a PiSSA or OLoRA adapter takes the remainder of the base as its reference",
    expected="The reference is the base: the first loss is 0.6931.",
    instead="Pass `ref_model=`, or precompute the reference’s log-probabilities with the base.",
    chapter="07_preferences",
)
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_with_pissa_trls_reference_is_the_remainder(llama, tokenizer, tmp_path, init):
    """The first loss of DPO is ln 2 where policy and reference are one: TRL's is not, ours is."""
    ours = copy.deepcopy(llama)
    trainer = dpo_trainer(llama, tokenizer, tmp_path, peft_config=decomposed(init))
    assert abs(first_loss(trainer) - LN_2) > 1e-5
    trainer.model.save_pretrained(tmp_path / "adapter")

    load_adapter(ours, tmp_path / "adapter")
    pairs = encode_pairs([RECORD], tokenizer, template="instruction").pairs
    found = evaluate_preferences(ours, PreferenceObjective(AdapterOff()), pairs)
    assert found["loss"] == pytest.approx(LN_2, abs=1e-5)


@pytest.mark.library(
    package="TRL",
    happens="`disable_dropout` does not reach an attention’s dropout, so the first DPO loss is not ln 2",
    expected="With policy and reference equal the first loss is 0.6931.",
    instead="Set `config.attention_dropout = 0` before the model is made.",
    chapter="07_preferences",
)
def test_attention_dropout_moves_trls_first_loss(llama, tokenizer, tmp_path):
    """`disable_dropout` reaches modules alone, and Llama's attention dropout is a number. Ours knows what it does."""
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.5
    trainer = dpo_trainer(copy.deepcopy(llama), tokenizer, tmp_path)
    assert abs(first_loss(trainer) - LN_2) > 1e-4

    inject_lora(llama, ["q_proj"], rank=4)
    pairs = encode_pairs([RECORD], tokenizer, template="instruction").pairs
    assert evaluate_preferences(llama.train(), PreferenceObjective(AdapterOff()), pairs)["loss"] == pytest.approx(LN_2)
    assert llama.training  # the reference and the held-out loss are computed without dropout, training is not


@pytest.mark.library(
    package="TRL",
    happens="In GRPO a reward of NaN leaves its completion out, like None, and training goes on",
    expected="A reward that is not a number stops the run.",
    instead="Check rewards in the reward function and raise there.",
    chapter="07_preferences",
)
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_reward_that_is_missing_leaves_its_completion_out_and_ours_is_refused(missing, llama, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def rewards(completions, **_):
        return [missing if n % 4 == 0 else float(n % 4) for n in range(len(completions))]

    args = GRPOConfig(
        str(tmp_path), num_generations=4, max_completion_length=4, per_device_train_batch_size=8, **COMMON
    )
    rows = Dataset.from_list([{"prompt": f"Lamp {n}"} for n in range(2)])
    trainer = GRPOTrainer(llama, rewards, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions([{"prompt": f"Lamp {n // 4}"} for n in range(8)])
    group = inputs["advantages"].view(2, 4)
    assert group[:, 0].tolist() == [0.0, 0.0]
    assert group[0, 1:].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-3)  # mean and deviation of the other three

    with pytest.raises(CourseError, match="not a finite number"):
        group_advantages(torch.tensor([float("nan"), 1.0, 2.0, 3.0]), 4)


def test_reference_values_are_float32_columns_and_ours_the_same_numbers(llama, tokenizer, tmp_path):
    trainer = dpo_trainer(llama, tokenizer, tmp_path, precompute_ref_log_probs=True)
    row, column = trainer.train_dataset[0], trainer.train_dataset.features["ref_chosen_logps"]
    assert column.dtype == "float32"
    prompt = tokenizer(PAIR["prompt"])["input_ids"]
    pair = {"prompt": prompt}
    for name in ("chosen", "rejected"):
        pair[name] = [*tokenizer(PAIR["prompt"] + PAIR[name])["input_ids"][len(prompt) :], tokenizer.eos_token_id]
    pair["input_ids"] = [*pair["prompt"], *pair["chosen"], *pair["rejected"]]
    values, _ = compute_reference(llama, Pairs([pair], ["a:1"]))
    assert values[0].tolist() == pytest.approx([row["ref_chosen_logps"], row["ref_rejected_logps"]], rel=1e-5)


@pytest.mark.library(
    package="TRL",
    happens="The accuracy of a reward model counts a tie as wrong: an untrained head at zero scores 0",
    expected="A model that knows nothing has an accuracy of one half.",
    instead="Report AUC, or count ties as one half, as `course_lib.evaluation.calibration` does.",
    chapter="07_preferences",
)
def test_a_reward_model_begins_at_random_and_a_tie_is_wrong(model_folders, tokenizer, tmp_path):
    """TRL's accuracy counts a tie as wrong, so an untrained head at 0 has 0 and not one half."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(model_folders / "llama", num_labels=1)
    assert model.score.weight.abs().max() > 0
    torch.nn.init.zeros_(model.score.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    args = RewardConfig(str(tmp_path), gradient_checkpointing=False, per_device_eval_batch_size=1, **COMMON)
    rows = Dataset.from_list([{"chosen": "Lamp one.", "rejected": "Lamp two."}] * 2)
    trainer = RewardTrainer(model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    measured = trainer.evaluate()
    assert measured["eval_loss"] == pytest.approx(LN_2, abs=1e-5)
    assert measured["eval_accuracy"] == 0.0

    ours = Verifier.from_decoder(load_decoder(model_folders / "llama"), tokenizer)
    scores = ours.score_batch([("Lamp?", "one"), ("Lamp?", "two")])
    assert scores == [0.5, 0.5]
    assert auc(scores, [True, False]) == 0.5


@pytest.mark.library(
    package="TRL",
    happens="`completion_mask` in rows that are already tokenised is ignored unless `completion_only_loss=True`",
    expected="A mask in the data is used.",
    instead="Set `completion_only_loss=True`, or store `labels`.",
    chapter="06_sft",
)
def test_the_mask_of_rows_tokenised_before_is_ignored_unless_it_is_asked_for(llama, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    example = encode_record(RECORD, tokenizer, template="instruction")
    mask = [int(label != -100) for label in example["labels"]]
    rows = Dataset.from_list([{"input_ids": example["input_ids"], "completion_mask": mask}])

    def labels(**options):
        args = SFTConfig(str(tmp_path), max_length=None, gradient_checkpointing=False, **COMMON, **options)
        trainer = SFTTrainer(llama, args=args, train_dataset=rows, processing_class=tokenizer)
        return trainer.data_collator(list(trainer.train_dataset))["labels"][0].tolist()

    assert labels() == example["input_ids"]  # the prompt is trained, without a word
    assert labels(completion_only_loss=True) == example["labels"]  # which is what ours says of the record at once


@pytest.mark.library(
    package="TRL",
    happens="Packing with “bfd” throws away what is longer than the row, end token included",
    expected="Packing keeps every token.",
    instead='Use `packing_strategy="bfd_split"`, or leave long rows out yourself.',
    chapter="06_sft",
)
def test_packing_cuts_what_is_too_long_and_ours_refuses():
    import trl
    from datasets import Dataset

    rows = [[1] * 7, [2] * 12, [3] * 3]
    packed = trl.pack_dataset(Dataset.from_dict({"input_ids": rows}), 10, "bfd")
    assert sum(map(len, packed["input_ids"])) == 7 + 10 + 3  # two tokens of the second row are gone
    assert packed["input_ids"][0] == [2] * 10  # and the longest comes first
    examples = [{"input_ids": row, "labels": row} for row in rows]
    with pytest.raises(CourseError, match="12"):
        pack(examples, 10, 0)
    assert (pack(examples, 12, 0)["segment_ids"] >= 0).sum() == 22

    with pytest.raises(TypeError, match="lists of lists"):
        trl.pack_dataset(Dataset.from_dict({"input_ids": rows, "name": ["a", "b", "c"]}), 10, "bfd")
