"""The pictures of the report, as SVG: a stage's curves, exact match with intervals, calibration and attention maps."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.alignment.pipeline.page import Picture
from course_lib.models.attention import causal_mask, rope, rotate
from course_lib.models.decoder import Decoder
from course_lib.training.log import StepRecord, read_log

SHOWN_TOKENS = 48  # of an attention map


def _svg(figure: Any) -> str:
    """A figure as SVG without a date or random ids, so that equal runs give equal files."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "course", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def stage_curves(name: str, title: str, folder: Path, curve: Sequence[dict[str, Any]]) -> Picture | None:
    """Draw the loss, the perplexity and the exact match of a stage over its steps.

    In place of the perplexity, a preference stage has the share of pairs in the right order, and a verifier the share
    of answers that it judges rightly.

    Args:
        name: the name of the picture.
        title: the title of the stage.
        folder: the folder of the stage's run, which holds its log.
        curve: exact match on the development problems, see `stages`.

    Returns:
        The picture; None where there is no log.
    """
    from matplotlib.figure import Figure

    records = read_log(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
    if not records:
        return None
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    loss, middle, match = figure.subplots(1, 3)
    steps = [record.step + 1 for record in records]
    loss.plot(steps, [record.loss for record in records], linewidth=0.6, alpha=0.5, color="C0")
    loss.plot(steps, _smooth([record.loss for record in records]), color="C0", label="training, smoothed")
    held_out = [(record.step + 1, record.eval_loss) for record in records if record.eval_loss is not None]
    if held_out:
        loss.plot(*zip(*held_out, strict=True), "o-", color="C1", label="held out")
    loss.set(xlabel="step", ylabel="loss (nats)", title=f"{title}: loss")
    loss.legend(fontsize="small")
    _middle(middle, records, held_out)
    if curve:
        points = [(point["step"], 100 * point["exact_match"]) for point in curve]
        match.plot(*zip(*points, strict=True), "o-", color="C2")
    match.set(xlabel="step", ylabel="per cent", title="exact match, development", ylim=(0, 100))
    last = f", exact match at the end {curve[-1]['exact_match']:.0%}" if curve else ""
    return Picture(
        name, _svg(figure), f"{title}: training loss from {records[0].loss:.2f} to {records[-1].loss:.2f}{last}"
    )


def _middle(axes: Any, records: Sequence[StepRecord], held_out: Sequence[tuple[int, float]]) -> None:
    """Draw the second panel: an accuracy for a preference run or a verifier, and a perplexity for any other run."""
    for key, label in (("accuracies", "pairs in the right order"), ("accuracy", "answers judged rightly")):
        if key in records[0].metrics:
            values = [100 * record.metrics[key] for record in records]
            axes.plot([record.step + 1 for record in records], _smooth(values), color="C3")
            axes.set(xlabel="step", ylabel="per cent", title=label, ylim=(0, 100))
            return
    if held_out:
        axes.plot([step for step, _ in held_out], [math.exp(min(loss, 20)) for _, loss in held_out], "o-", color="C3")
    axes.set(xlabel="step", ylabel="perplexity", title="held-out perplexity", yscale="log")


def _smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """An exponential moving average, corrected for its beginning."""
    total, weight, smooth = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth


def match_bars(rows: Sequence[dict[str, Any]]) -> Picture:
    """Draw the exact match of each model with its 95 % interval.

    Args:
        rows: the rows of the comparison table.

    Returns:
        The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot(ylabel="exact match, per cent", ylim=(0, 100))
    for number, row in enumerate(rows):
        value, low, high = (100 * row[key] for key in ("exact_match", "exact_match_low", "exact_match_high"))
        axes.bar(number, value, color=f"C{number}", alpha=0.7)
        axes.errorbar(number, value, [[max(0.0, value - low)], [max(0.0, high - value)]], color="black", capsize=6)
        axes.annotate(f"{value:.1f}", (number, high), ha="center", xytext=(0, 4), textcoords="offset points")
    axes.set_xticks(range(len(rows)), [row["model"] for row in rows])
    told = ", ".join(f"{row['model']} {row['exact_match']:.1%}" for row in rows)
    return Picture("exact_match", _svg(figure), f"Exact match on held-out problems with 95 % intervals: {told}")


def calibration(bins: Sequence[dict[str, Any]]) -> Picture:
    """Draw the share of right answers against the verifier's score.

    Args:
        bins: the bins that `reliability` gives, as dictionaries.

    Returns:
        The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="the verifier's score", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1)
    filled = [each for each in bins if each["count"]]
    axes.plot([each["score"] for each in filled], [each["right"] for each in filled], "o-")
    return Picture("calibration", _svg(figure), "Calibration of the verifier: on the dashed line a score is a chance")


@torch.no_grad()
def attention_weights(model: Decoder, ids: Sequence[int]) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) for every head, from the queries and keys of one forward pass.

    tests/alignment/test_pipeline_report.py compares the attention that these weights give with the model's own.

    Args:
        model: a decoder of the Llama family without learned sinks, in evaluation mode.
        ids: the token ids of one row.

    Returns:
        The weights (layers, heads, time, time). Each row sums to 1.
    """
    config = model.config
    caught: dict[str, Tensor] = {}

    def catch(key: str) -> Any:
        return lambda _module, _inputs, output: caught.__setitem__(key, output)

    hooks = []
    for number, layer in enumerate(model.model.layers):
        attention: Any = layer.self_attn
        hooks.append(attention.q_proj.register_forward_hook(catch(f"q{number}")))
        hooks.append(attention.k_proj.register_forward_hook(catch(f"k{number}")))
    row = torch.tensor([list(ids)], device=model.model.embed_tokens.weight.device)  # (1, T)
    try:
        model(row)
    finally:
        for hook in hooks:
            hook.remove()
    cos, sin = rope(torch.arange(len(ids), device=row.device)[None], config.head_dim, config.rope_theta)
    mask, found = causal_mask(len(ids), 0, row.device), []
    for number in range(config.num_hidden_layers):
        # (1, T, heads * D) -> (1, heads, T, D)
        q, k = (caught[f"{name}{number}"].unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for name in "qk")
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(-1, -2) / math.sqrt(config.head_dim)
        found.append(scores.masked_fill(~mask, -torch.inf).softmax(-1)[0])
    return torch.stack(found).cpu()


def attention_maps(model: Decoder, tokenizer: Any, text: str) -> Picture:
    """Draw up to four heads of the first, a middle and the last block, on a problem with its answer.

    Args:
        model: a decoder, see `attention_weights`.
        tokenizer: the tokenizer of the model.
        text: the problem and its answer in the model's template.

    Returns:
        The picture.
    """
    from matplotlib.figure import Figure

    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:SHOWN_TOKENS]
    weights = attention_weights(model, ids)
    layers = sorted({0, len(weights) // 2, len(weights) - 1})
    heads = min(4, weights.shape[1])
    figure = Figure(figsize=(2.6 * heads, 2.8 * len(layers)), layout="constrained")
    axes = figure.subplots(len(layers), heads, squeeze=False)
    for line, layer in zip(axes, layers, strict=True):
        for head, cell in enumerate(line):
            cell.imshow(weights[layer, head].sqrt().numpy(), cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
            cell.set_title(f"block {layer + 1}, head {head + 1}", fontsize="small")
            cell.set(xticks=[], yticks=[])
    labels = [_visible(tokenizer.decode([token])) for token in ids]
    for line in axes:
        line[0].set_yticks(range(len(ids)), labels, fontsize=3.5)
    for cell in axes[-1]:
        cell.set_xticks(range(len(ids)), labels, fontsize=3.5, rotation=90)
    return Picture(
        "attention", _svg(figure),
        "Attention maps: each row is a token, darker where it looks; the scale is the weight's square root",
    )  # fmt: skip


def _visible(text: str) -> str:
    """A token as a label. A plain `$` would begin a formula."""
    return text.replace("\n", "↵").replace("$", "\\$").strip() or "␣"
