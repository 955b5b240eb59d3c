"""Our labels against TRL's SFTTrainer, token by token, on real instructions and SmolLM2's tokenizer."""

import json
import os
from pathlib import Path

import pytest

from course_lib.data import IGNORE, encode_records, read_records
from course_lib.data.records import Record, ask, reply

# SmolLM2's template as TRL marks those of the same ChatML family: the content and the token that ends the turn.
ROOM = "data"

MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REAL = Path(os.environ.get("COURSE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from course_lib.models.pretrained import resolve

    return AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def records():
    """The real instructions where they are, else the course's own."""
    path = REAL / "instructions" / "instruction-data.json"
    if path.is_file():
        return read_records(path).records
    from course_lib.data.generators import instruction_set

    return [
        Record((ask(item["instruction"], item["input"]), reply(item["output"])), input=item["input"])
        for item in instruction_set("train", 1000)
    ]


def trl_examples(rows, tokenizer, tmp_path, **options):
    """What SFTTrainer would train on: its own preparation of `rows`."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    args = SFTConfig(str(tmp_path), use_cpu=True, report_to="none", **{"max_length": None} | options)
    trainer = SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset]


def differing(ours, theirs) -> int:
    """How many examples differ in an id or a label."""
    assert len(ours) == len(theirs)
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.weights
@pytest.mark.slow
def test_prompt_only_masking_equals_trl(records, tokenizer, tmp_path, parity):
    rows = [{"prompt": r.prompt, "completion": [dict(r.messages[-1])]} for r in records]
    ours = encode_records(records, tokenizer).examples
    assert sum(label == IGNORE for example in ours for label in example["labels"]) > 0
    parity.exact("prompt-only labels, chat", "TRL SFTTrainer", differing(ours, trl_examples(rows, tokenizer, tmp_path)))


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("max_length", [None, 24])
def test_instruction_template_equals_trl(records, tokenizer, tmp_path, max_length, parity):
    from course_lib.data import InstructionFormatter

    formatter = InstructionFormatter()
    rows = []
    for parts in (record.alpaca() for record in records):
        prompt = formatter.prompt(parts["instruction"], parts["input"])
        rows.append({"prompt": prompt, "completion": formatter.format(**parts).removeprefix(prompt)})
    options = dict(template="instruction", max_length=max_length, too_long="cut-end")  # TRL's "keep_start"
    ours = encode_records(records, tokenizer, **options)
    assert bool(ours.problems) == (max_length is not None)  # TRL drops these in silence, we name them
    theirs = trl_examples(rows, tokenizer, tmp_path, max_length=max_length)
    what = f"prompt-only labels, instruction template, max_length {max_length}"
    parity.exact(what, "TRL SFTTrainer", differing(ours.examples, theirs))


@pytest.mark.weights
@pytest.mark.slow
def test_assistant_turns_equal_trl(records, tokenizer, tmp_path, parity):
    """Conversations of two questions each. TRL needs a template with the turns marked; we also find them without."""
    import copy

    both = [
        Record((*first.messages, *second.messages)) for first, second in zip(records[::2], records[1::2], strict=True)
    ]
    both = [Record(({"role": "system", "content": "Answer briefly."}, *record.messages)) for record in both]
    marked = copy.deepcopy(tokenizer)
    marked.chat_template = MARKED
    rows = [{"messages": list(record.messages)} for record in both]
    theirs = trl_examples(rows, marked, tmp_path, assistant_only_loss=True)
    parity.exact(
        "assistant-only labels, marked template",
        "TRL SFTTrainer",
        differing(encode_records(both, marked, train_on="assistant").examples, theirs),
    )
    parity.exact(
        "assistant-only labels, unmarked template",
        "TRL SFTTrainer",
        differing(encode_records(both, tokenizer, train_on="assistant").examples, theirs),
    )


@pytest.mark.weights
@pytest.mark.slow
def test_an_assistant_that_speaks_first_equals_trl(records, tokenizer, tmp_path, parity):
    """ShareGPT has such conversations: a greeting, then the first question."""
    import copy

    greeted = [Record((reply(f"Welcome, number {n}."), *record.messages)) for n, record in enumerate(records[:200])]
    marked = copy.deepcopy(tokenizer)
    marked.chat_template = MARKED
    rows = [{"messages": list(record.messages)} for record in greeted]
    theirs = trl_examples(rows, marked, tmp_path, assistant_only_loss=True)
    ours = encode_records(greeted, marked, train_on="assistant").examples
    parity.exact("assistant speaks first, marked template", "TRL SFTTrainer", differing(ours, theirs))
    unmarked = copy.deepcopy(tokenizer)
    unmarked.chat_template = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    ours = encode_records(greeted, unmarked, train_on="assistant").examples
    parity.exact("assistant speaks first, unmarked template", "TRL SFTTrainer", differing(ours, theirs))


def test_the_recorded_rows_are_what_they_claim(records):
    """Guards the comparison itself: hundreds of different examples, not one repeated."""
    assert len({json.dumps(record.messages) for record in records}) > 900
