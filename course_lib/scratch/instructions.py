"""From instructions to batches: the labels and the padding (level 1 of the fine-tuning exercise).

A record is in Alpaca's format: {"instruction": ..., "input": ..., "output": ...}, "input" empty where there is none.
The template is `InstructionFormatter` in `course_lib.data.templates`, which both editions share.
"""

import warnings

import numpy as np

from course_lib.data import InstructionFormatter
from course_lib.data.tokenizers import TextEncoder
from course_lib.scratch.functional import IGNORE


class FinetuneDataset:
    """Token ids and labels of instruction records; the labels of the prompt are -100, so only the response is trained.

    Where the prompt alone would fill max_length, cutting the end would drop the whole response, and the example would
    silently teach nothing. The start of the prompt is left out instead, the response gets up to half of max_length, and
    a warning says so.

    Args:
        data: the records, at least one.
        tokenizer: it has encode(text) -> ids.
        max_length: a longer example is cut at the end, as far as the response allows.

    Raises:
        ValueError: `data` is empty, max_length is below 2, or a record lacks a field, has one that is not a text, or
            has an empty response.
    """

    def __init__(self, data: list[dict], tokenizer: TextEncoder, max_length: int = 128):
        if not data:
            raise ValueError("The dataset is empty: give at least one record.")
        if max_length < 2:
            raise ValueError(f"max_length {max_length} has no room for a prompt and a response: at least 2.")
        self.tokenizer, self.max_length, self.formatter = tokenizer, max_length, InstructionFormatter()
        self._shortened: list[int] = []
        self.examples = [self._example(number, record) for number, record in enumerate(data)]
        if self._shortened:
            warnings.warn(
                f"max_length {max_length} leaves no room for the response of {len(self._shortened)} of {len(data)} "
                f"records (the first is record {self._shortened[0]}): the start of their prompts is left out.",
                stacklevel=2,
            )

    def _example(self, number: int, record: dict) -> dict:
        instruction, given, output = _fields(number, record)
        # The prompt is encoded on its own, so that where it ends does not depend on how the response begins.
        prompt = list(self.tokenizer.encode(self.formatter.prompt(instruction, given)))
        response = list(self.tokenizer.encode(self.formatter.escape(output)))
        if len(prompt) >= self.max_length:
            self._shortened.append(number)
            prompt = prompt[len(prompt) - self.max_length + min(len(response), self.max_length // 2) :]
        # Labels are not shifted here: the loss compares position t with label t + 1.
        ids, labels = prompt + response, [IGNORE] * len(prompt) + response
        return {"input_ids": ids[: self.max_length], "labels": labels[: self.max_length]}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        """{"input_ids": [...], "labels": [...]}, equally long, at most max_length."""
        return self.examples[index]


def _fields(number: int, record: dict) -> tuple[str, str, str]:
    """The instruction, input ("" where there is none) and output of record `number`; ValueError for an unusable one."""
    if not isinstance(record, dict):
        raise ValueError(f"Record {number} is {record!r}: it must be a dictionary.")
    if missing := {"instruction", "output"} - record.keys():
        raise ValueError(f"Record {number} has no {' and no '.join(sorted(missing))}.")
    fields = record["instruction"], record.get("input") or "", record["output"]
    for name, value in zip(("instruction", "input", "output"), fields, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"The {name} of record {number} is {value!r}: it must be a text.")
    if not fields[2]:
        raise ValueError(f"Record {number} has an empty output: there is nothing to train on.")
    return fields


class DataCollator:
    """Examples of unequal length to one batch: ids are padded with `pad_token_id`, and labels with -100.

    The padding is on the right. Causal attention never looks that way, so a real token does not see it.
    """

    def __init__(self, pad_token_id: int = 0):
        self.pad_token_id = pad_token_id

    def collate(self, batch: list[dict]) -> dict[str, np.ndarray]:
        """Put examples into one batch.

        Returns:
            input_ids and labels, both int64 (batch, longest).

        Raises:
            ValueError: `batch` is empty, or an example has other numbers of ids and labels.
        """
        if not batch:
            raise ValueError("An empty batch cannot be collated.")
        for example in batch:
            if len(example["input_ids"]) != len(example["labels"]):
                counts = f"{len(example['input_ids'])} ids and {len(example['labels'])} labels"
                raise ValueError(f"An example has {counts}: each id needs its label.")
        longest = max(len(example["input_ids"]) for example in batch)

        def padded(key: str, filler: int) -> np.ndarray:
            """One field of all examples, filled up on the right: (batch, longest)."""
            return np.array([example[key] + [filler] * (longest - len(example[key])) for example in batch])

        return {"input_ids": padded("input_ids", self.pad_token_id), "labels": padded("labels", IGNORE)}
