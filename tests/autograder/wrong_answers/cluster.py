"""Plausible wrong answers to `cluster`: one for each requirement that its text states. See `test_wrong_answers`.

Those of the arithmetic, the scripts and resuming, parts 7 to 14, are in `cluster_plans`.
"""

from wrong_answers.cluster_plans import PLANS

_ADDED = "after[(r + 1) % n][part] = held[(r + 1) % n][part] + held[r][part]"
_AVERAGE = "name: sum(t * g[name] for g, t in some) / sum(tokens)"
_RING = "held[to][part] = held[to][part] + gone[r] if added else gone[r].copy()"

WRONG = {
    "part-bounds": {
        "the first parts are the longer ones": ("(part < more)", "(part >= ranks - more)"),
        "only by one": ("(part < more)", "(more if part == 0 else 0)"),
        "nothing is left out": ("(part < more)", "0"),
        "stop is not included": ("bounds.append((start, stop))", "bounds.append((start, stop - 1))"),
        "parts follow each other": ("start = stop", "start = stop + 1"),
        "start and stop, not start and length": ("(start, stop))", "(start, stop - start))"),
        "a part may be empty": ("    return bounds", "    return [b for b in bounds if b[0] < b[1]]"),
        "tuples": ("bounds.append((start, stop))", "bounds.append([start, stop])"),
        "no rank is refused": ("if ranks < 1:", "if ranks < 0:"),
        "fewer than none, too": ("if ranks < 1:", "if ranks == 0:"),
        "with its number": ('f"ranks = {ranks}: there', 'f"ranks: there'),
        "by its name": ('f"ranks = {ranks}: there', 'f"{ranks}: there'),
    },
    "reduce-round": {
        "to the right": ("(r + 1) % n", "(r - 1) % n"),
        "the part follows from the step": ("part = (r - step) % n", "part = r"),
        "backwards": ("part = (r - step) % n", "part = (r + step) % n"),
        "of the rank that sends": ("part = (r - step) % n", "part = (r + 1 - step) % n"),
        "adds": (_ADDED, "after[(r + 1) % n][part] = held[r][part].copy()"),
        "its own": (_ADDED, "after[(r + 1) % n][part] = held[r][part] + held[r][part]"),
        "the sender keeps its part": (_ADDED, _ADDED + "\n        after[r][part] = 0 * held[r][part]"),
        "only one part": (_ADDED, "after[(r + 1) % n] = [a + b for a, b in zip(held[(r + 1) % n], held[r])]"),
        "at every rank": ("for r in range(n):", "for r in range(n - 1):"),
        "what it held stays as it is": ("[part.copy() for part in parts] for parts in held", "parts for parts in held"),
        "also the arrays stay as they are": (
            _ADDED,
            "after[(r + 1) % n] = held[(r + 1) % n]\n        after[(r + 1) % n][part] += held[r][part]",
        ),
        "a list for each rank": ("    return after", "    return tuple(map(tuple, after))"),
    },
    "all-reduce": {
        "sums, not means": ("[np.concatenate(parts) for parts in held]", "[np.concatenate(p) / n for p in held]"),
        "all rounds of the first half": ("step < n - 1", "step < n - 2"),
        "all rounds of the second half": ("range(2 * (n - 1))", "range(max(0, 2 * n - 3))"),
        "no more of them": ("range(2 * (n - 1))", "range(2 * n)"),
        "the second half replaces": ("if added else gone[r].copy()", "if True else gone[r].copy()"),
        "sent by the sender": ("sent[r] += len(gone[r])", "sent[to] += len(gone[r])"),
        "numbers, not parts": ("sent[r] += len(gone[r])", "sent[r] += 1"),
        "numbers, not bytes": ("sent[r] += len(gone[r])", "sent[r] += gone[r].nbytes"),
        "in both halves": ("sent[r] += len(gone[r])", "sent[r] += len(gone[r]) * (step < n - 1)"),
        "parts that differ in length": ("], sent", "], [2 * (n - 1) * len(vectors[0]) // n] * n"),
        "everyone has the sum": (
            "[np.concatenate(parts) for parts in held]",
            "[np.concatenate(held[0])] + [v.copy() for v in vectors[1:]]",
        ),
        "different lengths are refused": ("> 1:", "> n:"),
        "by this word": ("differ in length", "are unlike"),
        "the vectors stay as they are": [
            ("[[p.copy() for p in np.array_split(v, n)] for v in vectors]", "[np.array_split(v, n) for v in vectors]"),
            (_RING, "held[to][part][...] = held[to][part] + gone[r] if added else gone[r]"),
        ],
    },
    "average-gradients": {
        "weighted by tokens": (_AVERAGE, "name: sum(g[name] for g, t in some) / len(some)"),
        "divided by all tokens": (_AVERAGE, "name: sum(t * g[name] for g, t in some) / len(some)"),
        "and not by the ranks": (_AVERAGE, "name: sum(t * g[name] for g, t in some) / len(tokens)"),
        "divided at all": (_AVERAGE, "name: sum(t * g[name] for g, t in some)"),
        "a rank without tokens spoils nothing": ("zip(gradients, tokens) if t]", "zip(gradients, tokens)]"),
        "and does not hide others": ("if t]", "if t][:2]"),
        "all names": ("for name in gradients[0]", "for name in list(gradients[0])[:1]"),
        "no tokens are refused": ("if sum(tokens) == 0:", "if sum(tokens) < 0:"),
        "by these words": ("no tokens on any rank", "nothing to average"),
        "the gradients stay as they are": (
            "    return {",
            "    for g, t in some:\n        for name in g:\n            g[name] *= t\n"
            "    return {name: sum(g[name] for g, t in some) / sum(tokens) for name in gradients[0]}\n    return {",
        ),
    },
    "loss-factors": {
        "times the ranks": ("len(tokens) * tokens / total", "tokens / total"),
        "not times the micro-batches": ("len(tokens) * tokens", "tokens.shape[1] * tokens"),
        "nor times both": ("len(tokens) * tokens", "tokens.size * tokens"),
        "of all ranks": ("tokens / total", "tokens / tokens.sum(axis=1, keepdims=True)"),
        "of all micro-batches": ("tokens / total", "tokens / tokens.sum(axis=0)"),
        "by tokens": ("len(tokens) * tokens / total", "np.ones(tokens.shape)"),
        "not the other way round": ("len(tokens) * tokens / total", "total / (len(tokens) * (tokens + 1e-9))"),
        "the same shape": ("tokens / total", "tokens.reshape(-1) / total"),
        "no tokens are refused": ("if total == 0:", "if total < 0:"),
        "by these words": ("there are no tokens", "nothing is there"),
        "the tokens stay as they are": (
            "    return len",
            "    copy = tokens.copy()\n    tokens *= len(tokens)\n    return len(copy) * copy / total\n    return len",
        ),
    },
    "sharded-step": {
        "gradients are summed": ("sum(gradients), n)", "sum(gradients) / n, n)"),
        "those of all ranks": ("sum(gradients), n)", "gradients[0], n)"),
        "each rank its own part": ("zip(velocities, parts)", "zip(velocities, parts[::-1])"),
        "momentum on the velocity": ("momentum * v + g for", "momentum * (v + g) for"),
        "the gradient counts fully": ("momentum * v + g for", "momentum * v + (1 - momentum) * g for"),
        "the old velocity counts": ("momentum * v + g for", "0 * v + g for"),
        "down, not up": ("w - lr * v for", "w + lr * v for"),
        "by the new velocity": ("zip(held, new)]", "zip(held, velocities)]"),
        "the learning rate is not in the velocity": ("momentum * v + g for", "momentum * v + lr * g for"),
        "all weights": ("np.concatenate([w - lr * v for w, v in zip(held, new)])", "held[0] - lr * new[0]"),
        "velocities for each rank": ("zip(held, new)]), new", "zip(held, new)]), [np.concatenate(new)]"),
        "the weights stay as they are": (
            "held = np.array_split(weights, n)",
            "weights -= lr * np.concatenate(new)\n    return weights, new\n    held = weights",
        ),
        "the velocities stay as they are": (
            "[momentum * v + g for v, g in zip(velocities, parts)]",
            "velocities\n    for v, g in zip(new, parts):\n        v *= momentum\n        v += g",
        ),
    },
} | PLANS
