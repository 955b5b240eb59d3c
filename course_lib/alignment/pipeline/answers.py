"""How a model answers problems, greedily or by sampling, many at a time, and how the exact check judges its answers."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from course_lib.alignment.reranking import Samples
from course_lib.data.generators.pocket_problems import is_right
from course_lib.data.records import ask
from course_lib.data.templates import InstructionFormatter, chat_text
from course_lib.data.tokenizers import has_chat_template
from course_lib.files import write_whole
from course_lib.inference import end_tokens, generate, prepare
from course_lib.models.devices import device_of

Item = dict[str, Any]


def prompt_of(tokenizer: Any, question: str) -> str:
    """Write a question in the model's own template, up to where the answer begins.

    Args:
        tokenizer: the tokenizer of the model. Without a chat template, the instruction template is used.
        question: what is asked.

    Returns:
        The prompt.

    Example:
        >>> from course_lib.scratch import BPETokenizer
        >>> prompt_of(BPETokenizer.train("2 + 3", 257), "What is 2 + 3?")
        '### Instruction:\\nWhat is 2 + 3?\\n### Response:\\n'
    """
    if has_chat_template(tokenizer):
        return chat_text(tokenizer, [ask(question)], generation_prompt=True)
    return InstructionFormatter().prompt(question)


def write_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    batch_size: int = 256,
    seed: int = 0,
    what: str = "answers",
) -> list[list[str]]:
    """Let a model answer prompts. The arguments alone decide the answers.

    Args:
        model: a decoder. On a CPU, a Llama is first prepared for fast decoding.
        tokenizer: the tokenizer of the model.
        prompts: the texts as the model takes them; no special token is added.
        max_new_tokens: how many tokens an answer may have.
        samples: how many answers each prompt gets.
        temperature: the temperature of the samples; 0 takes the likeliest token each time.
        batch_size: how many answers are written at a time.
        seed: the seed of the samples.
        what: the words beside the progress bar.

    Returns:
        A list of `samples` texts for each prompt, without the end token and without white space at their ends.
    """
    fast = _fast(model)
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    # Prompts of similar length share a batch, so that little of it is padding.
    order = [number for number in sorted(range(len(ids)), key=lambda i: len(ids[i])) for _ in range(samples)]
    found: list[list[str]] = [[] for _ in ids]
    ends = end_tokens(model, tokenizer)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc=what, unit="batch", leave=False, disable=not sys.stderr.isatty(), delay=2):
        chosen = order[start : start + batch_size]
        new = generate(
            fast, [ids[i] for i in chosen], max_new_tokens, temperature=temperature, eos_token_id=ends,
            seed=seed * 1_000_003 + start,
        )  # fmt: skip
        for number, tokens in zip(chosen, new, strict=True):
            found[number].append(tokenizer.decode(tokens).strip())
    return found


def _fast(model: Any) -> Any:
    """The model as `prepare` makes it fast, or the model itself where that is not possible."""
    plain = getattr(model.config, "model_type", "") == "llama" and not getattr(model.config, "attention_sinks", False)
    if plain and device_of(model).type == "cpu" and next(model.parameters()).dtype == torch.float32:
        return prepare(model)
    return model


def judged(items: Sequence[Item], answers: Sequence[Sequence[str]]) -> list[Samples]:
    """Judge the answers to each problem with the exact check.

    Args:
        items: the problems, each with "question" and "answer".
        answers: the answers to each problem.

    Returns:
        The `Samples` of each problem, as reranking, pairs and pass@k take them.

    Example:
        >>> judged([{"question": "What is 2 + 3?", "answer": "5"}], [["#### 5", "#### 6"]])[0].correct
        (True, False)
    """
    return [
        Samples(item["question"], tuple(texts), tuple(is_right(item, text) for text in texts))
        for item, texts in zip(items, answers, strict=True)
    ]


def share_right(samples: Sequence[Samples]) -> float:
    """The share of all answers that are right.

    Example:
        >>> share_right([Samples("2 + 3", ("5", "6"), (True, False)), Samples("2 + 4", ("6", "6"), (True, True))])
        0.75
    """
    return sum(sum(each.correct) for each in samples) / sum(len(each.correct) for each in samples)


def judged_rows(samples: Sequence[Samples]) -> list[dict[str, Any]]:
    """Put answers and verdicts into rows that `read_judged` reads. Equal answers to a problem are kept once.

    Args:
        samples: the samples of each problem. Empty answers are left out.

    Returns:
        A row {"problem", "answers", "correct"} for each problem that has an answer.

    Example:
        >>> judged_rows([Samples("2 + 3", ("5", "", "5"), (True, False, True))])
        [{'problem': '2 + 3', 'answers': ['5'], 'correct': [True]}]
    """
    rows = []
    for each in samples:
        kept = {text: mark for text, mark in zip(each.answers, each.correct, strict=True) if text.strip()}
        if kept:
            rows.append({"problem": each.problem, "answers": list(kept), "correct": list(kept.values())})
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write a JSONL file, whole or not at all.

    Args:
        path: the file.
        rows: the rows, one for each line.

    Returns:
        The path.
    """
    return write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
