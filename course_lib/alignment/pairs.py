"""Preference pairs as token ids, and as rows in which both responses share one computation of their prompt.

A row consists of the prompt, the chosen response and the rejected one. The positions of both responses continue those
of the prompt, and neither response attends to the other. So one forward pass gives the same result as two, and with a
prompt of 280 tokens and responses of 35 it has 350 positions instead of 630. tests/alignment/test_pairs.py compares the
two ways.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from course_lib.alignment.log_probs import log_probs_at
from course_lib.data.masking import IGNORE, TOO_LONG, encode_record
from course_lib.data.records import Record, RecordError, reply
from course_lib.data.tokenizers import Tokenizer
from course_lib.errors import CourseError
from course_lib.models.masks import mask_for

Pair = dict[str, Any]  # {"prompt", "chosen", "rejected"}: token ids; and "input_ids", all three in a row

# Why a pair is left out.
REASONS = {
    "identical": "the two responses are the same",
    "empty": "a response is empty",
    "truncated": "the prompt leaves no room for a response",
    "too long": "prompt and response are longer than the limit",
    "no rejected response": "the rejected response is missing",
    "refused": "the template cannot write the conversation",
}


@dataclass
class Pairs:
    """Preference pairs as token ids.

    Attributes:
        pairs: the pairs to train on.
        names: where each of them comes from.
        dropped: the names of the pairs that were left out, for each reason of `REASONS`.
        cut: how many pairs lost a part of their prompt or of a response.
    """

    pairs: list[Pair] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    cut: int = 0

    def __str__(self) -> str:
        return "; ".join([f"{len(self.pairs):,} pairs, {self.cut:,} of them cut", *self.report()])

    def report(self) -> list[str]:
        """One line for each reason why pairs were left out, with their number and the names of the first few."""
        return [
            f"pairs left out: {len(names):,} ({REASONS[reason]}): {', '.join(names[:3])}"
            + (" and others" if len(names) > 3 else "")
            for reason, names in self.dropped.items()
        ]

    def add(self, name: str, pair: Pair, max_length: int | None, too_long: str) -> None:
        """Add a pair, cut to the limit, or add its name to those that are left out.

        Args:
            name: where it comes from.
            pair: {"prompt", "chosen", "rejected"} at full length.
            max_length: tokens of the prompt and one response together; None for any number.
            too_long: see `encode_pairs`.

        Raises:
            RecordError: too_long is "error", and the pair is too long.
        """
        short, reason = _shortened(name, pair, max_length, too_long)
        if short is None:
            self.dropped.setdefault(reason, []).append(name)
            return
        self.cut += any(len(short[part]) < len(pair[part]) for part in ("prompt", "chosen", "rejected"))
        self.pairs.append(short | {"input_ids": [*short["prompt"], *short["chosen"], *short["rejected"]]})
        self.names.append(name)

    def within(self, max_length: int, too_long: str) -> "Pairs":
        """Cut the same pairs to a limit, without tokenising them again.

        Args:
            max_length: the limit, in tokens of the prompt and one response together.
            too_long: see `encode_pairs`.

        Returns:
            New `Pairs`.

        Raises:
            RecordError: too_long is "error" and a pair is too long.
        """
        limited = Pairs(dropped={reason: list(names) for reason, names in self.dropped.items()})
        for name, pair in zip(self.names, self.pairs, strict=True):
            limited.add(name, pair, max_length, too_long)
        return limited

    def fingerprint(self) -> str:
        """SHA-256 of all token ids: another data set, template, tokenizer or limit gives another one."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(repr([list(map(int, pair[part])) for part in ("prompt", "chosen", "rejected")]).encode())
        return digest.hexdigest()


def encode_pairs(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    *,
    template: str = "chat",
    max_length: int | None = None,
    too_long: str = "cut-end",
) -> Pairs:
    """Turn records with a rejected answer into the ids of prompt, chosen and rejected response.

    The prompt ends where the ids of a conversation begin to differ from those of the prompt alone, as in TRL's
    DPOTrainer. The prompt is never trained. Pairs from which nothing can be learnt are left out, and named. TRL keeps
    pairs of equal or empty responses, which only dilute its averages, and silently drops pairs that are too long.

    Args:
        records: preference records, from `read_records`.
        tokenizer: the model's.
        template: "chat" or "instruction", see `encode_record`.
        max_length: tokens of the prompt and one response together; None for any number.
        too_long: "cut-end" cuts the responses, which then lose their end token, as in TRL; "cut-start" cuts the
            beginning of the prompt; "skip" leaves the pair out; "error" raises an error.

    Returns:
        The pairs, with the names of those that were left out.

    Raises:
        CourseError: an argument is not possible.
        RecordError: too_long is "error", and a pair is too long.

    Example:
        >>> from course_lib.data.records import ask
        >>> from course_lib.scratch import BPETokenizer
        >>> records = [Record((ask("2 + 2?"), reply(answer)), rejected="5", source=answer) for answer in ("4", "5")]
        >>> pairs = encode_pairs(records, BPETokenizer(), template="instruction")
        >>> print(pairs)
        1 pairs, 0 of them cut; pairs left out: 1 (the two responses are the same): 5
    """
    if too_long not in TOO_LONG:
        raise CourseError(f"too_long={too_long!r}: choose one of {', '.join(TOO_LONG)}.")
    found = Pairs()
    for number, record in enumerate(records):
        name = record.source or f"pair {number}"
        pair, reason = _encoded(record, tokenizer, template)
        if pair is None:
            found.dropped.setdefault(reason, []).append(name)
        else:
            found.add(name, pair, max_length, too_long)
    return found


def _encoded(record: Record, tokenizer: Tokenizer, template: str) -> tuple[Pair | None, str]:
    """(the ids of the three parts at full length, ""), or (None, why there are none)."""
    if record.rejected is None:
        return None, "no rejected response"
    if not (record.response.strip() and record.rejected.strip()):
        return None, "empty"
    if record.response.strip() == record.rejected.strip():
        return None, "identical"
    turned = replace(record, messages=(*record.messages[:-1], reply(record.rejected)), rejected=None)
    try:
        chosen, rejected = (encode_record(each, tokenizer, template=template) for each in (record, turned))
    except RecordError:
        return None, "refused"
    # The earlier of the two places where a response begins; up to it, both have the prompt's ids.
    begins = min(_first_target(example["labels"]) for example in (chosen, rejected))
    ids = {"chosen": chosen["input_ids"], "rejected": rejected["input_ids"]}
    return {"prompt": ids["chosen"][:begins]} | {name: each[begins:] for name, each in ids.items()}, ""


def _first_target(labels: list[int]) -> int:
    return next(place for place, label in enumerate(labels) if label != IGNORE)


def _shortened(name: str, pair: Pair, limit: int | None, too_long: str) -> tuple[Pair | None, str]:
    """(the pair within the limit, ""), or (None, why it has to be left out)."""
    prompt, longest = len(pair["prompt"]), max(len(pair["chosen"]), len(pair["rejected"]))
    if limit is not None and prompt + longest > limit:
        if too_long == "error":
            raise RecordError(f"{name}: its {prompt + longest:,} tokens are more than the limit of {limit:,}.")
        if too_long == "skip":
            return None, "too long"
        room = limit - (longest if too_long == "cut-start" else prompt)
        if room < 1:  # no token of the prompt, or of a response, would be left
            return None, "truncated"
        if too_long == "cut-start":
            pair = pair | {"prompt": pair["prompt"][-room:]}
        else:
            pair = pair | {part: pair[part][:room] for part in ("chosen", "rejected")}
    if not pair["prompt"]:
        return None, "truncated"  # the first token of a response needs one before it
    if pair["chosen"] == pair["rejected"]:
        return None, "identical"
    return pair, ""


def collate_pairs(
    pairs: Sequence[Pair], chosen: Sequence[int] | np.ndarray, pad_token_id: int
) -> dict[str, np.ndarray]:
    """Put some pairs into one batch of shared rows.

    Args:
        pairs: pairs from `encode_pairs`; they may have "reference", two log-probabilities that were computed before.
        chosen: the numbers of the pairs to take.
        pad_token_id: the token that fills up shorter rows.

    Returns:
        int64 (batch, time): input_ids; position_ids; part_ids, 0 for the prompt, 1 chosen, 2 rejected, -1 padding.
        int64 (batch, targets): labels, the tokens of both responses, IGNORE where there are fewer; columns, the place
        in the row that predicts each; response, 0 for the chosen and 1 for the rejected. Where the pairs have it, also
        reference, float64 (batch, 2).

    Example:
        >>> pair = {"prompt": [1, 2], "chosen": [3, 4], "rejected": [5], "input_ids": [1, 2, 3, 4, 5]}
        >>> batch = collate_pairs([pair], [0], pad_token_id=0)
        >>> batch["position_ids"].tolist(), batch["columns"].tolist()  # both responses follow position 1
        ([[0, 1, 2, 3, 2]], [[1, 2, 1]])
    """
    rows = [pairs[i] for i in chosen]
    time = max(len(row["input_ids"]) for row in rows)
    targets = max(len(row["chosen"]) + len(row["rejected"]) for row in rows)
    fillers = {"input_ids": pad_token_id, "position_ids": 0, "part_ids": -1}
    batch = {key: np.full((len(rows), time), filler) for key, filler in fillers.items()}
    batch |= {key: np.full((len(rows), targets), filler) for key, filler in
              {"labels": IGNORE, "columns": 0, "response": 0}.items()}  # fmt: skip
    for number, row in enumerate(rows):
        _fill(batch, number, row)
    if rows and "reference" in rows[0]:
        batch["reference"] = np.array([row["reference"] for row in rows], dtype=np.float64)
    return batch


def _fill(batch: dict[str, np.ndarray], number: int, pair: Pair) -> None:
    """Write one pair into row `number` of a batch."""
    prompt, first, second = (len(pair[part]) for part in ("prompt", "chosen", "rejected"))
    used = prompt + first + second
    batch["input_ids"][number, :used] = pair["input_ids"]
    # The rejected response stands behind the chosen one, and counts its positions from the prompt's end like it.
    after = [*range(prompt, prompt + first), *range(prompt, prompt + second)]
    batch["position_ids"][number, :used] = [*range(prompt), *after]
    batch["part_ids"][number, :used] = np.repeat([0, 1, 2], [prompt, first, second])
    batch["labels"][number, : first + second] = [*pair["chosen"], *pair["rejected"]]
    # A response's first token is predicted by the prompt's last one, and every other by the token before it.
    before_chosen = range(prompt - 1, prompt + first - 1)
    before_rejected = [prompt - 1, *range(prompt + first, used - 1)]
    batch["columns"][number, : first + second] = [*before_chosen, *before_rejected]
    batch["response"][number, first : first + second] = 1


def pair_mask(part_ids: torch.Tensor) -> torch.Tensor:
    """The attention mask of rows of prompt, chosen and rejected response.

    Args:
        part_ids: (batch, time), see `collate_pairs`.

    Returns:
        bool (batch, 1, time, time), True where a query (third axis) attends to a key (fourth axis). A token attends to
        itself and to earlier tokens of the prompt and of its own response; padding attends only to itself.

    Example:
        >>> pair_mask(torch.tensor([[0, 1, 2]])).int()[0, 0]
        tensor([[1, 0, 0],
                [1, 1, 0],
                [1, 0, 1]], dtype=torch.int32)
    """
    time = part_ids.shape[1]
    seer, seen = part_ids[:, :, None], part_ids[:, None, :]  # (batch, time, 1), (batch, 1, time)
    causal = torch.ones(time, time, dtype=torch.bool, device=part_ids.device).tril()
    allowed = causal & (seer >= 0) & ((seen == 0) | (seen == seer))  # (batch, time, time)
    return (allowed | torch.eye(time, dtype=torch.bool, device=part_ids.device))[:, None]


def pair_log_probs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute log p(chosen | prompt) and log p(rejected | prompt) of each pair in one forward pass.

    Args:
        model: a causal language model whose attention accepts a mask and positions.
        batch: the arrays of `collate_pairs`, as tensors.

    Returns:
        (batch,) and (batch,), in nats, equal to those of two separate passes up to rounding.
    """
    mask = mask_for(model, pair_mask(batch["part_ids"]))
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "position_ids": batch["position_ids"]}
    rows, places = torch.nonzero(batch["labels"] != IGNORE, as_tuple=True)  # (count,): one for each response token
    found = log_probs_at(model, inputs, rows, batch["columns"][rows, places], batch["labels"][rows, places])
    # One sum for each response: (2 x batch,), the rejected ones behind the chosen ones.
    size = len(batch["labels"])
    sums = found.new_zeros(2 * size).index_add(0, rows + size * batch["response"][rows, places], found)
    return sums[:size], sums[size:]


def response_lengths(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of tokens of the chosen and of the rejected responses, (batch,) each."""
    real, rejected = batch["labels"] != IGNORE, batch["response"] == 1
    return (real & ~rejected).sum(1), (real & rejected).sum(1)
