"""The third part of the plausible wrong answers to `kv_cache`: sinks, sampling, and speculation."""

_KEPT = "token[(token < sinks) | (token >= length - window)]"
_PLACES = "np.arange(len(kept))"
_QUERY = "rotate(q[:, None], place[-1:])"
_KEYS = "rotate(keys[:, kept], place)"
_ORDER = 'np.argsort(-probs, kind="stable")'
_BEFORE = "np.append(0.0, np.cumsum(probs[order])[:-1])"
_FIRST = "(before < top_p) | (np.arange(len(order)) == 0)"
_ACCEPT = "uniforms[i] >= target[i, token] / draft[i, token]"
_RESIDUAL = "residual = np.maximum(0.0, target[i] - draft[i])"
_REJECTED = "return i, residual / residual.sum()"
_SPEED = "return tokens / (k * c + 1)"
_BEST = "max(range(most + 1), key=lambda k: speed_up(a, k, c))"

TOKENS = {
    "sink-positions": {
        "the sinks stay": ("(token < sinks) | ", ""),
        "as many as are asked for": ("token < sinks", "token < 4"),
        "one too many": ("token < sinks", "token <= sinks"),
        "the window stays": (" | (token >= length - window)", ""),
        "with the newest token": ("token >= length - window)", "token >= length - window - 1) & (token < length - 1)"),
        "the window beside the sinks, not with them": ("length - window", "length - window + sinks"),
        "one too many in the window": ("token >= length - window", "token > length - window - 2"),
        "none twice": (
            f"kept = {_KEPT}",
            "kept = np.concatenate([token[:sinks], token[-window:]])",
        ),
        "all while there is room": (
            f"kept = {_KEPT}",
            "kept = np.concatenate([token[:sinks], token[max(sinks + 1, length - window):]])",
        ),
        "ascending": (f"kept = {_KEPT}", f"kept = {_KEPT}\n    kept = np.roll(kept, -sinks)"),
        "positions in the cache, not in the text": (f"return kept, {_PLACES}", "return kept, kept.copy()"),
        "from 0": (_PLACES, "np.arange(1, len(kept) + 1)"),
        "no gap between sinks and window": (
            _PLACES,
            "np.where(kept < sinks, kept, kept - max(0, length - window - sinks) + 1)",
        ),
        "of the same length": (_PLACES, "np.arange(sinks + window)"),
        "not by the age": (_PLACES, "np.arange(len(kept))[::-1]"),
        "kept first": (f"return kept, {_PLACES}", f"return {_PLACES}, kept"),
        "which tokens, not whether": (_KEPT, "(token < sinks) | (token >= length - window)"),
        "integers": (f"return kept, {_PLACES}", f"return kept, {_PLACES}.astype(float)"),
        "no sinks are possible": ("    token =", "    sinks = max(1, sinks)\n    token ="),
    },
    "sink-attention": {
        "the sinks take part": ("(token < sinks) | ", ""),
        "the window ends": ("token >= len(token) - window", "token >= 0"),
        "the newest token is in the window": (
            "token >= len(token) - window)]",
            "token >= len(token) - window - 1)][:-1]",
        ),
        "none twice": (
            "kept = token[(token < sinks) | (token >= len(token) - window)]",
            "kept = np.concatenate([token[:sinks], token[-window:]])",
        ),
        "places in the cache, not in the text": (f"place = {_PLACES}", "place = kept"),
        "for the query, too": (_QUERY, "rotate(q[:, None], token[-1:])"),
        "for the keys, too": (_KEYS, "rotate(keys[:, kept], kept)"),
        "the query is rotated": (_QUERY, "q[:, None]"),
        "the keys are rotated": (_KEYS, "keys[:, kept]"),
        "rotated once": (_KEYS, "rotate(rotate(keys, token)[:, kept], place)"),
        "values are not rotated": (
            "attention(q, keys, values[:, kept], sees)",
            "attention(q, keys, rotate(values[:, kept], place), sees)",
        ),
        "the query's place is the newest token's": (_QUERY, "rotate(q[:, None], place[-1:] + 1)"),
        "positions begin with the sinks": (_KEYS, "rotate(keys[:, kept], np.maximum(place - sinks, 0))"),
        "the values of those that are kept": ("values[:, kept]", "values[:, -len(kept):]"),
        "all that are kept are seen": ("    return attention", "    sees[0, 0] = len(kept) == 1\n    return attention"),
        "one row for each head": ("sees)[:, 0]", "sees)"),
        "the keys stay as they are": (
            f"keys = {_KEYS}",
            f"keys[:, kept] = {_KEYS}\n    keys = keys[:, kept]",
        ),
        "heads are rotated apart, not as one": (_QUERY, "rotate(q[None], np.arange(len(q))).swapaxes(0, 1)"),
    },
    "top-p": {
        "the token that reaches it is kept": (_BEFORE, "np.cumsum(probs[order])"),
        "the sum reaches it exactly": ("before < top_p", "before <= top_p"),
        "from the most probable on": (_ORDER, 'np.argsort(probs, kind="stable")'),
        "not in the order of the indices": (_ORDER, "np.arange(len(probs))"),
        "the first is always kept": (" | (np.arange(len(order)) == 0)", ""),
        "also where top_p is small": (_FIRST, "(before < top_p) | (np.cumsum(probs[order]) <= top_p)"),
        "equal ones: the lower index first": (_ORDER, 'np.argsort(probs, kind="stable")[::-1]'),
        "equal ones are not all kept": (
            "    kept = np.zeros",
            "    keep = np.flatnonzero(probs >= probs[keep].min())\n    kept = np.zeros",
        ),
        "not as an unstable sort leaves them": (_ORDER, "np.argsort(-probs)"),
        "a number, not a share of tokens": (_FIRST, "np.arange(len(order)) < max(1, top_p * len(order))"),
        "not a threshold": (_FIRST, "(probs[order] >= 1 - top_p) | (np.arange(len(order)) == 0)"),
        "the kept ones add up to 1": ("kept / kept.sum()", "kept"),
        "not by a softmax": (
            "return kept / kept.sum()",
            "kept[keep] = np.exp(probs[keep])\n    return kept / kept.sum()",
        ),
        "the others are 0": ("np.zeros(len(probs))", "np.full(len(probs), 1e-6)"),
        "in their old places": (
            "    return kept / kept.sum()",
            "    return probs[order] * (kept[order] > 0) / kept.sum()",
        ),
        "all of them, not only the kept": ("return kept / kept.sum()", "return kept[kept > 0] / kept.sum()"),
        "1 is off": ("    if top_p == 1:\n        return probs.copy()\n", ""),
        "1 is possible": ("0 <= top_p <= 1", "0 <= top_p < 1"),
        "0 is possible": ("0 <= top_p <= 1", "0 < top_p <= 1"),
        "more is refused": ("0 <= top_p <= 1", "0 <= top_p <= 100"),
        "a little more, too": ("0 <= top_p <= 1", "0 <= top_p <= 1.25"),
        "less is refused": ("0 <= top_p <= 1", "top_p <= 1"),
        "with the value": ("top_p {top_p} is", "top_p is"),
        "the probabilities stay as they are": (
            "    kept = np.zeros(len(probs))\n    kept[keep] = probs[keep]\n",
            "    kept = probs\n    kept[np.setdiff1d(order, keep)] = 0.0\n",
        ),
    },
    "min-p": {
        "relative to the largest": ("min_p * probs.max()", "min_p"),
        "not to the mean": ("probs.max()", "probs.mean()"),
        "not to the sum of all": ("min_p * probs.max()", "min_p * probs.sum() / len(probs)"),
        "an equal one is kept": ("probs >= min_p", "probs > min_p"),
        "kept, not dropped": ("probs >= min_p", "probs < min_p"),
        "the kept ones add up to 1": ("kept / kept.sum()", "kept"),
        "the others are 0": ("probs, 0.0)", "probs, 1e-6)"),
        "in their places": ("return kept / kept.sum()", "return np.sort(kept / kept.sum())[::-1]"),
        "all of them": ("return kept / kept.sum()", "return kept[kept > 0] / kept.sum()"),
        "1 keeps the equals": (
            "    kept =",
            "    if min_p == 1:\n        return np.eye(len(probs))[probs.argmax()]\n    kept =",
        ),
        "0 drops none": ("    kept =", "    min_p = max(min_p, 1e-3)\n    kept ="),
        "1 is possible": ("0 <= min_p <= 1", "0 <= min_p < 1"),
        "0 is possible": ("0 <= min_p <= 1", "0 < min_p <= 1"),
        "more is refused": ("0 <= min_p <= 1", "0 <= min_p <= 1.25"),
        "less is refused": ("0 <= min_p <= 1", "min_p <= 1"),
        "with the value": ("min_p {min_p} is", "min_p is"),
        "the probabilities stay as they are": (
            "kept = np.where(probs >= min_p * probs.max(), probs, 0.0)",
            "kept = probs\n    kept[probs < min_p * probs.max()] = 0.0",
        ),
        "not as a product of logarithms": ("min_p * probs.max()", "probs.max() ** (1 / max(min_p, 1e-9))"),
    },
    "accept-draft": {
        "by the quotient": (_ACCEPT, "uniforms[i] >= target[i, token]"),
        "the right way round": (_ACCEPT, "uniforms[i] >= draft[i, token] / target[i, token]"),
        "not only where the target has more": (_ACCEPT, "target[i, token] < draft[i, token]"),
        "by chance, not by half": (_ACCEPT, "0.5 >= target[i, token] / draft[i, token]"),
        "not where the target's favourite is another": (_ACCEPT, "target[i].argmax() != token"),
        "u is below, not above": (_ACCEPT, "uniforms[i] < target[i, token] / draft[i, token]"),
        "u equal to the quotient is a rejection": (_ACCEPT, _ACCEPT.replace(">=", ">")),
        "each guess has its u": ("uniforms[i]", "uniforms[0]"),
        "each place has its probabilities": (_ACCEPT, "uniforms[i] >= target[0, token] / draft[0, token]"),
        "the target of the place, not of the next": (_ACCEPT, "uniforms[i] >= target[i + 1, token] / draft[i, token]"),
        "the first rejection stops": (
            "    for i, token in enumerate(tokens):",
            "    right = [j for j, t in enumerate(tokens) if uniforms[j] < target[j, t] / draft[j, t]]\n"
            "    if 0 < len(right) < len(tokens):\n"
            "        i = min(set(range(len(tokens))) - set(right))\n"
            "        residual = np.maximum(0.0, target[i] - draft[i])\n"
            "        return len(right), residual / residual.sum()\n"
            "    for i, token in enumerate(tokens):",
        ),
        "the rejected one does not count": (_REJECTED, "return i + 1, residual / residual.sum()"),
        "drawn from the residual": (_REJECTED, "return i, target[i]"),
        "which adds up to 1": (_REJECTED, "return i, residual"),
        "of the target less the draft": (_RESIDUAL, "residual = np.maximum(0.0, draft[i] - target[i])"),
        "not below 0": (_RESIDUAL, "residual = np.abs(target[i] - draft[i])"),
        "not the target without the guess": (
            _RESIDUAL,
            "residual = np.where(np.arange(len(target[i])) == token, 0.0, target[i])",
        ),
        "at the place of the rejection": (_RESIDUAL, "residual = np.maximum(0.0, target[0] - draft[0])"),
        "all accepted: the target's next": ("return len(tokens), target[-1]", "return len(tokens), target[-2]"),
        "as it is": (
            "return len(tokens), target[-1]",
            "rest = np.maximum(0.0, target[-1] - draft[-1])\n    return len(tokens), rest / rest.sum()",
        ),
        "the next token is not counted": ("return len(tokens), target[-1]", "return len(tokens) + 1, target[-1]"),
        "probabilities, not a token": (_REJECTED, "return i, int(residual.argmax())"),
        "a number, not the tokens": ("return len(tokens), target[-1]", "return tokens, target[-1]"),
        "the number first": ("return len(tokens), target[-1]", "return target[-1], len(tokens)"),
        "the target stays as it is": (
            _RESIDUAL,
            "residual = target[i]\n            residual -= draft[i]\n"
            "            np.maximum(residual, 0.0, out=residual)",
        ),
    },
    "speed-up": {
        "the draft's steps cost": (_SPEED, "return tokens"),
        "k of them": (_SPEED, "return tokens / (c + 1)"),
        "and the target's": (_SPEED, "return tokens / (k * c or 1)"),
        "the token of the target counts": ("(1 - a ** (k + 1))", "(1 - a**k)"),
        "a rejection stops": ("(1 - a ** (k + 1)) / (1 - a)", "1 + k * a"),
        "accepted guesses add up": ("(1 - a ** (k + 1)) / (1 - a)", "1 / (1 - a)"),
        "an acceptance of 1": ("k + 1 if a == 1 else ", ""),
        "gives k + 1 tokens": ("k + 1 if a == 1", "k if a == 1"),
        "which cost": ("    tokens = k + 1 if a == 1 else", "    if a == 1:\n        return k + 1\n    tokens ="),
        "also 1 as an integer": ("if a == 1 else", "if type(a) is float and a == 1 else"),
        "0 is possible": ("0 <= a <= 1", "0 < a <= 1"),
        "1 is possible": ("0 <= a <= 1", "0 <= a < 1"),
        "more is refused": ("0 <= a <= 1", "0 <= a"),
        "less is refused": ("0 <= a <= 1", "a <= 1"),
        "with the value": ("a = {a} is", "a is"),
        "not rounded": (_SPEED, "return round(tokens / (k * c + 1), 2)"),
        "no guess is possible": (_BEST, _BEST.replace("range(most + 1)", "range(1, most + 2)")),
        "most is included": (_BEST, _BEST.replace("most + 1", "max(1, most)")),
        "the smallest of equals": (_BEST, _BEST.replace("range(most + 1)", "range(most, -1, -1)")),
        "the number, not the speed-up": (_BEST, "max(speed_up(a, k, c) for k in range(most + 1))"),
        "the best of all, not the first peak of tokens": (_BEST, "most if c < a else 0"),
        "the cost counts": (_BEST, _BEST.replace("speed_up(a, k, c)", "speed_up(a, k, 0.1)")),
    },
}
