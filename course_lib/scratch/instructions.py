"""From instructions to batches: the labels and the padding (level 1 of the fine-tuning exercise).

A record is in Alpaca's format: {"instruction": ..., "input": ..., "output": ...}, "input" empty where there is none.
The template is `InstructionFormatter` in `course_lib.data.templates`, which both editions share.
"""

import numpy as np

from course_lib.data import InstructionFormatter
from course_lib.scratch.functional import IGNORE


class FinetuneDataset:
    """Token ids and labels of instruction records; the labels of the prompt are -100, so only the response is trained.

    data: records; tokenizer: has encode(text) -> ids. max_length: longer examples are cut at the end.
    ValueError where a record lacks a field, or where cutting would leave nothing of its response: that example would
    silently teach nothing.
    """

    def __init__(self, data: list[dict], tokenizer, max_length: int = 128):
        if not data:
            raise ValueError("The dataset is empty: give at least one record.")
        self.max_length, formatter = max_length, InstructionFormatter()
        self.examples = [self._example(number, record, tokenizer, formatter) for number, record in enumerate(data)]

    def _example(self, number: int, record: dict, tokenizer, formatter: InstructionFormatter) -> dict:
        if missing := {"instruction", "output"} - record.keys():
            raise ValueError(f"Record {number} has no {' and no '.join(sorted(missing))}.")
        prompt = formatter.prompt(record["instruction"], record.get("input", ""))
        # The prompt is encoded on its own, so that where it ends does not depend on how the response begins.
        prompt_ids, response_ids = tokenizer.encode(prompt), tokenizer.encode(formatter.escape(record["output"]))
        if len(prompt_ids) >= self.max_length:
            raise ValueError(
                f"Record {number} has a prompt of {len(prompt_ids)} tokens, and max_length {self.max_length} would "
                "leave nothing of its response."
            )
        ids = (prompt_ids + response_ids)[: self.max_length]
        return {"input_ids": ids, "labels": ([IGNORE] * len(prompt_ids) + response_ids)[: self.max_length]}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        """{"input_ids": [...], "labels": [...]}, equally long, at most max_length."""
        return self.examples[index]


class DataCollator:
    """Examples of unequal length to one batch: ids padded with `pad_token_id`, labels with -100."""

    def __init__(self, pad_token_id: int = 0):
        self.pad_token_id = pad_token_id

    def collate(self, batch: list[dict]) -> dict[str, np.ndarray]:
        """Returns input_ids and labels, both int64 (batch, longest)."""
        if not batch:
            raise ValueError("An empty batch cannot be collated.")
        longest = max(len(example["input_ids"]) for example in batch)

        def padded(key: str, filler: int) -> np.ndarray:
            return np.array([example[key] + [filler] * (longest - len(example[key])) for example in batch])

        return {"input_ids": padded("input_ids", self.pad_token_id), "labels": padded("labels", IGNORE)}
