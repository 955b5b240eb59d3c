"""What a model can do: exact match with intervals, best-of-N and pass@N, perplexity, and a text beyond its window."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from course_lib.alignment.pipeline.answers import judged, prompt_of, write_answers
from course_lib.alignment.pipeline.settings import Evaluation, Problems
from course_lib.alignment.pretrain import blocks
from course_lib.alignment.reranking import Samples, Share, compare_selections, score_samples
from course_lib.data.mixture import DataConfig, corpus_documents, read_mixture
from course_lib.errors import CourseError
from course_lib.evaluation import evaluate, mean_pass_at_k, perplexity
from course_lib.inference.caches import DynamicCache, SinkCache
from course_lib.inference.caches.making import rotary_frequencies
from course_lib.inference.long_text import token_losses
from course_lib.models.config import parameter_count
from course_lib.models.decoder import Decoder
from course_lib.models.verifier import Verifier

BLOCK = 128  # tokens of a row of perplexity: WikiText's way, rows that do not overlap
LONG_BLOCK = 32  # tokens that one pass reads of the long text
SHOWN = 8  # problems whose answers the report shows
ROWS_AT_A_TIME = 32


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: "base", "sft", "dpo" or "baseline".
        model: the decoder.
        tokenizer: the tokenizer of the model.
    """

    name: str
    model: Decoder
    tokenizer: Any


def share_of(right: float, problems: int, name: str = "") -> dict[str, Any]:
    """Compute a share with its 95 % interval, for JSON.

    Args:
        right: how many problems were solved.
        problems: how many problems there were.
        name: the name of the way of choosing.

    Returns:
        {"value", "low", "high", "problems"}. The interval is Wilson's.

    Example:
        >>> found = share_of(50, 100)
        >>> round(found["low"], 3), found["value"], round(found["high"], 3)
        (0.404, 0.5, 0.596)
    """
    share = Share(name, right, problems)
    low, high = share.interval
    return {"value": share.value, "low": low, "high": high, "problems": problems}


def evaluate_model(
    subject: Subject,
    items: Sequence[dict],
    problems: Problems,
    how: Evaluation,
    verifier: Verifier | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure everything about one model.

    Args:
        subject: the model.
        items: the held-out problems.
        problems: how answers are written.
        how: what is measured.
        verifier: the verifier that chooses among the samples; with None, this is not measured.
        seed: the seed of the samples.

    Returns:
        What the model's file `*_eval.json` says.
    """
    model, tokenizer = subject.model, subject.tokenizer
    model.eval()
    prompts = [prompt_of(tokenizer, item["question"]) for item in items]
    greedy = write_answers(
        model, tokenizer, prompts, problems.max_new_tokens, batch_size=how.batch_size, what=f"{subject.name}: greedy"
    )
    first = judged(items, greedy)
    about: dict[str, Any] = {
        "model": subject.name,
        "parameters": parameter_count(model.config),
        "exact_match": share_of(sum(each.correct[0] for each in first), len(items)),
        "exact_match_by_kind": _by_kind(items, first),
        "perplexity": {name: text_perplexity(subject, name, how.perplexity_tokens) for name in how.perplexity_on},
        "long_context": long_context(subject, how),
    }
    if model.config.model_type == "gpt2":  # the baseline: zero-shot, without samples
        return about | {"samples": None, "examples": _examples(items, first, [None] * len(items))}
    sampled = write_answers(
        model, tokenizer, prompts, problems.max_new_tokens, how.samples, how.temperature, how.batch_size,
        7 * seed + 3, f"{subject.name}: samples",
    )  # fmt: skip
    groups = judged(items, sampled)
    scores = score_samples(verifier, groups, ROWS_AT_A_TIME * 4) if verifier is not None else None
    about |= {"samples": selections(groups, scores, how.samples, how.temperature)}
    if subject.name == "base":
        about["exact_match_plain_prompt"] = plain_prompt(subject, items, problems, how)
    about["judgements"] = judgements(groups, scores) if scores is not None else []
    return about | {"examples": _examples(items, first, scores or [None] * len(items), groups)}


def selections(
    groups: Sequence[Samples], scores: Sequence[Sequence[float]] | None, count: int, temperature: float
) -> dict[str, Any]:
    """Compute how many problems each way of choosing among N answers solves, and pass@k.

    Args:
        groups: the answers to each problem.
        scores: the verifier's scores; None where there is no verifier.
        count: how many answers there are to each problem, N.
        temperature: the temperature at which they were sampled.

    Returns:
        {"count", "temperature", "one", "majority", "verifier", "weighted_vote", "pass_at"}.
    """
    found = {each.name: each for each in compare_selections(groups, scores, count)}
    marks = [each.correct for each in groups]
    powers = [k for k in (1, 2, 4, 8, 16, 32) if k < count] + [count]
    ways = {"one": "first", "majority": "majority", "verifier": "verifier", "weighted_vote": "weighted vote"}
    return {
        "count": count,
        "temperature": temperature,
        **{ours: share_of(found[name].solved, len(groups)) if name in found else None for ours, name in ways.items()},
        "pass_at": {str(k): mean_pass_at_k(marks, k) for k in powers},
    }


def judgements(groups: Sequence[Samples], scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """List every sampled answer with its verdict and its score, for the verifier's own evaluation.

    Args:
        groups: the answers to each problem.
        scores: the verifier's scores of these answers.

    Returns:
        A row {"problem", "answers", "correct", "scores"} for each problem. Empty answers are left out.

    Example:
        >>> rows = judgements([Samples("2 + 3", ("5", ""), (True, False))], [[0.9, 0.2]])
        >>> rows[0]["answers"], rows[0]["scores"]
        (['5'], [0.9])
    """
    rows = []
    for group, own in zip(groups, scores, strict=True):
        kept = [number for number, text in enumerate(group.answers) if text.strip()]
        rows.append(
            {
                "problem": group.problem,
                "answers": [group.answers[i] for i in kept],
                "correct": [group.correct[i] for i in kept],
                "scores": [own[i] for i in kept],
            }
        )
    return rows


def plain_prompt(subject: Subject, items: Sequence[dict], problems: Problems, how: Evaluation) -> dict[str, Any]:
    """Measure exact match with the question alone as the prompt, because a base has never seen the template.

    Args:
        subject: the base.
        items: the held-out problems.
        problems: how answers are written.
        how: the settings that say how many answers are written at a time.

    Returns:
        The share, see `share_of`. The answer is taken from the line of the question and the next two lines.
    """
    texts = write_answers(
        subject.model, subject.tokenizer, [item["question"] for item in items], problems.max_new_tokens,
        batch_size=how.batch_size, what=f"{subject.name}: plain prompt",
    )  # fmt: skip
    lines = [["\n".join(text.split("\n")[:3]) for text in each] for each in texts]
    return share_of(sum(each.correct[0] for each in judged(items, lines)), len(items))


def text_perplexity(subject: Subject, name: str, most_tokens: int) -> dict[str, Any]:
    """Measure perplexity on the held-out part of a corpus, in rows that do not overlap, as is usual for WikiText-2.

    Perplexities of models with other tokenizers cannot be compared by token; by word they can.

    Args:
        subject: the model.
        name: the corpus, see `DataConfig`.
        most_tokens: how many tokens are read at most.

    Returns:
        {"tokens", "loss", "perplexity", "word_perplexity"}; the loss is in nats per token.

    Raises:
        CourseError: the corpus has less than one row.
    """
    end = subject.tokenizer.eos_token_id
    config = DataConfig({name: 1.0}, most_tokens, shuffle=False)
    rows = blocks(read_mixture(config, subject.tokenizer, end, "held_out", seed=17).ids, BLOCK)
    loss = evaluate(subject.model, rows, ROWS_AT_A_TIME).loss
    words = sum(len(subject.tokenizer.decode(row[1:].tolist()).split()) for row in rows)
    predicted = rows.shape[0] * (rows.shape[1] - 1)
    return {
        "tokens": predicted,
        "loss": loss,
        "perplexity": perplexity(loss),
        "word_perplexity": perplexity(min(loss * predicted / max(words, 1), 700.0)),
    }


def long_context(subject: Subject, how: Evaluation) -> dict[str, Any] | None:
    """Measure the perplexity of a long text that is read through a window, with and without attention sinks.

    "on" keeps the first tokens and a window. "off" keeps a window of the same number of tokens in all. "all" keeps
    every token, so positions go beyond those of the training. See `inference.long_text`, and arXiv:2309.17453.

    Args:
        subject: the model.
        how: the length of the text, the sinks and the window.

    Returns:
        {"tokens", "sinks", "window", "on", "off", "all", "on_by_quarter", "off_by_quarter"}: the perplexities of the
        text and of each quarter of it; None for a GPT-2, whose positions cannot be moved.
    """
    model = subject.model
    if model.config.model_type == "gpt2":
        return None
    ids = _long_text(subject, how)
    frequencies, block = rotary_frequencies(model), min(LONG_BLOCK, how.window)
    on = token_losses(model, ids, SinkCache(frequencies, how.sinks, how.window), block)
    off = token_losses(model, ids, SinkCache(frequencies, 0, how.sinks + how.window), block)
    everything = token_losses(model, ids, DynamicCache(), block)
    return {
        "tokens": len(ids),
        "sinks": how.sinks,
        "window": how.window,
        "on": _perplexity(on),
        "off": _perplexity(off),
        "all": _perplexity(everything),
        "on_by_quarter": [_perplexity(part) for part in on.tensor_split(4)],
        "off_by_quarter": [_perplexity(part) for part in off.tensor_split(4)],
    }


def _long_text(subject: Subject, how: Evaluation) -> list[int]:
    """Join held-out documents, without the tokens that end them, into one long text."""
    if how.long_tokens < 2 * LONG_BLOCK:
        raise CourseError(f"long_tokens={how.long_tokens} is too short for a long text: give {2 * LONG_BLOCK} or more.")
    ids: list[int] = []
    for document in corpus_documents(how.perplexity_on[0], "held_out", seed=18):
        ids += subject.tokenizer(document + " ")["input_ids"]
        if len(ids) >= how.long_tokens:
            break
    if len(ids) < 2 * LONG_BLOCK:
        raise CourseError(
            f"The held-out part of {how.perplexity_on[0]} has {len(ids)} tokens: too few for a long text. "
            "Name a longer text first in perplexity_on."
        )
    return ids[: how.long_tokens]


def _perplexity(losses: torch.Tensor) -> float:
    return perplexity(min(float(losses.mean()), 700.0))


def _by_kind(items: Sequence[dict], first: Sequence[Samples]) -> dict[str, float]:
    """The share of right greedy answers for each kind of problem."""
    found: dict[str, list[bool]] = {}
    for item, each in zip(items, first, strict=True):
        found.setdefault(item.get("kind", "all"), []).append(each.correct[0])
    return {kind: float(np.mean(marks)) for kind, marks in sorted(found.items())}


def _examples(
    items: Sequence[dict],
    first: Sequence[Samples],
    scores: Sequence[Any],
    groups: Sequence[Samples] | None = None,
) -> list[dict[str, Any]]:
    """The first problems, each with its greedy answer, its samples and the verifier's scores."""
    shown = []
    for number in range(min(SHOWN, len(items))):
        own = groups[number] if groups is not None else None
        shown.append(
            {
                "question": items[number]["question"],
                "answer": items[number]["answer"],
                "greedy": first[number].answers[0],
                "greedy_right": first[number].correct[0],
                "samples": list(own.answers) if own else [],
                "right": list(own.correct) if own else [],
                "scores": list(scores[number]) if scores[number] is not None else [],
            }
        )
    return shown


def settings_of(problems: Problems, how: Evaluation) -> dict[str, Any]:
    """Collect what decides an evaluation, for a fingerprint.

    Args:
        problems: how answers are written.
        how: what is measured.

    Returns:
        {"problems", "evaluation"}, as dictionaries.

    Example:
        >>> settings_of(Problems(), Evaluation(samples=4))["evaluation"]["samples"]
        4
    """
    return {"problems": asdict(problems), "evaluation": asdict(how)}
