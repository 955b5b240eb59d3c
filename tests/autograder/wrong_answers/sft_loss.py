"""Plausible wrong answers to parts 7 to 11 of `sft`: targets, losses, means, the gradient, accumulation."""

_SHIFT = "targets[:, :-1] = labels[:, 1:]"
_NEXT = "targets[:, :-1][position_ids[:, 1:] == 0] = IGNORE"
_STABLE = "    kept = kept - kept.max(axis=-1, keepdims=True)\n"
_EXP = "np.exp(kept - kept.max(axis=-1, keepdims=True))"
_SUMMED = "np.log(np.exp(kept).sum(axis=-1))"
_TOKENS = "float(sums.sum() / counts.sum())"
_MEANS = "(sums[rows] / counts[rows]).mean()"
_PARTS = "[n * g for g, n in zip(gradients, counts) if n]"

LOSS = {
    "targets": {
        "shifted": (_SHIFT, "targets[:] = labels"),
        "to the left": (_SHIFT, "targets[:, 1:] = labels[:, :-1]"),
        "by one": (_SHIFT, "targets[:, :-2] = labels[:, 2:]"),
        "the last predicts nothing": (_SHIFT, "targets = np.roll(labels, -1, axis=1)"),
        "nor 0": ("np.full_like(labels, IGNORE)", "np.zeros_like(labels)"),
        "nor itself": ("np.full_like(labels, IGNORE)", "labels.copy()"),
        "along the time": (_SHIFT, "targets[:-1] = labels[1:]"),
        "the shape stays": ("    return targets", "    return targets[:, :-1]"),
        "the next example is not predicted": (_NEXT, "pass"),
        "where the next position is 0": (_NEXT, "targets[position_ids == 0] = IGNORE"),
        "not where it is the last": (_NEXT, "targets[:, :-1][position_ids[:, 1:] <= 1] = IGNORE"),
        "also in an example of one token": (
            _NEXT,
            "targets[:, :-1][(position_ids[:, 1:] == 0) & (position_ids[:, :-1] > 0)] = IGNORE",
        ),
        "in every row": (_NEXT, "targets[:1, :-1][position_ids[:1, 1:] == 0] = IGNORE"),
        "at its own place": (_NEXT, "targets[:, :-1][:, (position_ids[:, 1:] == 0).any(axis=0)] = IGNORE"),
        "with the value IGNORE": (_NEXT, _NEXT.replace("IGNORE", "0")),
        "positions are optional": ("if position_ids is not None:", "if True:"),
        "integers": ("np.full_like(labels, IGNORE)", "np.full(labels.shape, float(IGNORE))"),
        "the labels stay as they are": ("targets = np.full_like(labels, IGNORE)", "targets = labels"),
    },
    "token-losses": {
        "the sign": ("- chosen", "+ chosen"),
        "the logarithm": (_SUMMED, "np.exp(kept).sum(axis=-1)"),
        "natural": (_SUMMED, "np.log2(np.exp(kept).sum(axis=-1))"),
        "over the vocabulary": (_SUMMED, "np.log(np.exp(kept).sum())"),
        "a sum, not a mean": (_SUMMED, "np.log(np.exp(kept).mean(axis=-1))"),
        "the target's logit": ("targets[counted]]", "0]"),
        "not the largest": ("- chosen", "- kept.max(axis=-1)"),
        "large logits do not overflow": ("        kept = kept - kept.max(axis=-1, keepdims=True)\n", ""),
        "nor do small ones vanish": (
            "kept.max(axis=-1, keepdims=True)",
            "np.maximum(kept.max(axis=-1, keepdims=True), 0)",
        ),
        "the largest of its own position": ("kept.max(axis=-1, keepdims=True)", "kept.max()"),
        "they are not cut off": (
            "        kept = kept - kept.max(axis=-1, keepdims=True)\n",
            "        kept = np.clip(kept, -30, 30)\n",
        ),
        "a small probability is not rounded up": (
            "losses[counted] = np.log(np.exp(kept).sum(axis=-1)) - chosen",
            "losses[counted] = -np.log(np.exp(chosen) / np.exp(kept).sum(axis=-1) + 1e-12)",
        ),
        "none without a target": ("counted = targets != IGNORE", "counted = np.full(targets.shape, True)"),
        "a target of 0 counts": ("counted = targets != IGNORE", "counted = targets > 0"),
        "0 without a target": ("np.zeros(targets.shape)", "np.ones(targets.shape)"),
        "NaN times 0 is NaN": (
            "    return losses",
            "    everywhere = np.nan_to_num(logits, nan=0.0, posinf=np.inf)\n"
            "    return losses + 0 * np.where(counted, 0, logits.sum(axis=-1))",
        ),
        "all ignored": ("    if len(kept):\n", "    if True:\n        logits[counted].max()\n"),
        "of each token": ("return losses", "return losses.sum(axis=-1)"),
        "not divided": ("return losses", "return losses / max(counted.sum(), 1)"),
        "not shifted": ("return losses", "return losses[:, :-1]"),
        "the logits stay as they are": (
            "    counted = targets != IGNORE\n",
            "    logits -= 1.0\n    counted = targets != IGNORE\n",
        ),
        "the answer is one's own": (
            "def token_losses(logits, targets):\n    from course_lib import scratch\n"
            "    log_p = scratch.log_softmax(scratch.Tensor(np.nan_to_num(logits))).data\n"
            "    b, t = np.indices(targets.shape)\n"
            "    return np.where(targets == IGNORE, 0.0, -log_p[b, t, np.maximum(targets, 0)])"
        ),
    },
    "two-means": {
        "over tokens": (_TOKENS, "float(sums.sum() / losses.size)"),
        "not over rows": (_TOKENS, "float(sums.sum() / rows.sum())"),
        "a loss of 0 counts": (_TOKENS, "float(sums.sum() / np.count_nonzero(losses))"),
        "the mean of the rows' means": (_MEANS, "(sums[rows] / counts[rows]).sum()"),
        "of the means, not the sums": (_MEANS, "sums[rows].mean()"),
        "in its own row": (_MEANS, "(sums[rows] / losses.shape[1]).mean()"),
        "a row without targets takes no part": (_MEANS, "(sums / np.maximum(counts, 1)).mean()"),
        "nor is it NaN": (_MEANS, "(sums / counts).mean()"),
        "targets decide which rows": ("rows = counts > 0", "rows = sums > 0"),
        "a target of 0 counts": ("targets != IGNORE", "targets > 0"),
        "tokens first": ("    return float", "    return float((sums[rows] / counts[rows]).mean()), float"),
        "in this order": (
            "    return float(sums.sum() / counts.sum()), float(\n        (sums[rows] / counts[rows]).mean()\n    )",
            "    return float((sums[rows] / counts[rows]).mean()), float(sums.sum() / counts.sum())",
        ),
        "rows, not columns": [
            ("sum(axis=1)\n    if", "sum(axis=0)\n    if"),
            ("losses.sum(axis=1)", "losses.sum(axis=0)"),
        ],
        "the first is not the second": (_TOKENS, "float((sums[rows] / counts[rows]).mean())"),
        "nor the other way round": (_MEANS, "sums.sum() / counts.sum()"),
        "no target at all is refused": ("if not counts.any():", "if False:"),
        "one is enough": ("if not counts.any():", "if counts.sum() < 2:"),
        "losses of 0 are not refused": ("if not counts.any():", "if not losses.any():"),
        "the message says so": ("no label in", "nothing in"),
        "not an infinity instead": (
            '        raise ValueError("no label in this batch")\n',
            "        return float('inf'), float('inf')\n",
        ),
    },
    "gradient": {
        "softmax minus one": ("        kept[np.arange(len(kept)), targets[counted]] -= 1\n", ""),
        "not plus": ("targets[counted]] -= 1", "targets[counted]] += 1"),
        "the sign": ("gradient[counted] = kept", "gradient[counted] = -kept"),
        "at the target": ("targets[counted]] -= 1", "0] -= 1"),
        "a probability": ("        kept = kept / kept.sum(axis=-1, keepdims=True)\n", ""),
        "over the vocabulary": ("kept.sum(axis=-1, keepdims=True)", "kept.sum()"),
        "divided by the number of tokens": ("kept / len(kept)", "kept"),
        "that count": ("kept / len(kept)", "kept / targets.size"),
        "not by the batch": ("kept / len(kept)", "kept / len(targets)"),
        "nor by the vocabulary": ("kept / len(kept)", "kept / kept.size"),
        "not the mean of means": (
            "        gradient[counted] = kept / len(kept)",
            "        per_row = np.maximum(counted.sum(axis=1), 1) * counted.any(axis=1).sum()\n"
            "        gradient[counted] = kept / np.repeat(per_row, counted.sum(axis=1))[:, None]",
        ),
        "nothing from the prompt": (
            "counted = targets != IGNORE",
            "logits = np.nan_to_num(logits)\n    targets = np.where(targets < 0, 0, targets)\n"
            "    counted = targets != IGNORE",
        ),
        "a target of 0 counts": ("counted = targets != IGNORE", "counted = targets > 0"),
        "large logits do not overflow": (_EXP, "np.exp(kept)"),
        "nor vanish": (
            _EXP,
            "np.exp(kept - np.maximum(kept.max(axis=-1, keepdims=True), 0) - 800 * (kept.min() < -300))",
        ),
        "the largest of its own position": (_EXP, "np.exp(kept - kept.max())"),
        "they are not cut off": (_EXP, "np.exp(np.clip(kept, -30, 30))"),
        "zeros without a target": ("np.zeros(logits.shape)", "0 * logits"),
        "not NaN without any": ("    return gradient", "    return gradient / (len(kept) > 0)"),
        "the logits' shape": ("return gradient", "return gradient.sum(axis=0)"),
        "not shifted": ("return gradient", "return np.roll(gradient, 1, axis=1)"),
        "the gradient, not the loss": ("return gradient", "return np.abs(gradient)"),
        "the logits stay as they are": ("    return gradient", "    logits[counted] = 0.0\n    return gradient"),
    },
    "accumulated": {
        "weighted": (_PARTS, "[g * sum(counts) / len(counts) for g, n in zip(gradients, counts) if n]"),
        "not the plain sum": ("sum(parts) / sum(counts)", "sum(parts)"),
        "divided by the tokens": ("sum(parts) / sum(counts)", "sum(parts) / len(counts)"),
        "not by those that have some": ("sum(parts) / sum(counts)", "sum(parts) / len(parts)"),
        "nor by the largest": ("sum(parts) / sum(counts)", "sum(parts) / max(counts)"),
        "nor by itself": (_PARTS, "[g / n for g, n in zip(gradients, counts) if n]"),
        "a piece without labels is left out": (_PARTS, "[n * g for g, n in zip(gradients, counts)]"),
        "its label is not made up": (_PARTS, "[max(n, 1) * np.nan_to_num(g) for g, n in zip(gradients, counts)]"),
        "but what follows it": ("counts) if n]", "counts) if n][: counts.index(0) if 0 in counts else None]"),
        "with its own count": ("zip(gradients, counts)", "zip(gradients, counts[::-1])"),
        "the first piece, too": ("zip(gradients, counts)", "zip(gradients[1:], counts[1:])"),
        "and the last": ("zip(gradients, counts)", "zip(gradients[:-1], counts[:-1])"),
        "one label is a label": ("if n]", "if n > 1]"),
        "an array of the same shape": ("sum(parts) / sum(counts)", "np.sum(parts) / sum(counts)"),
        "not of its mean": ("sum(parts) / sum(counts)", "np.mean(parts, axis=-1) / sum(counts)"),
        "whole numbers are not cut": ("sum(parts) / sum(counts)", "sum(parts) // sum(counts)"),
        "none at all is refused": ("if not sum(counts):", "if False:"),
        "not only where there is one piece": ("if not sum(counts):", "if counts == [0]:"),
        "one without is not refused": ("if not sum(counts):", "if not all(counts):"),
        "the message says so": ("no label in", "nothing in"),
        "the gradients stay as they are": (
            _PARTS,
            "[np.multiply(g, n, out=g) for g, n in zip(gradients, counts) if n]",
        ),
    },
}
