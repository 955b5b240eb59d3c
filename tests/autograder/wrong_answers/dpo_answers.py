"""Plausible wrong answers to parts 11 to 15 of `dpo`: several answers, and PyTorch's parts."""

_PASS = "1 - math.comb(samples - right, k) / math.comb(samples, k)"
_EACH = "pass_at_k(len(each), sum(each), k)"
_BETTER = "if answer is not None and (most is None or score > most):"
_LOWER = "(scores < scores[:, None]) @ probabilities"
_BEST = "(lower + same) ** n - lower**n"
_SHARED = "best * probabilities / np.where(same > 0, same, 1.0)"
_KL = "math.log(n) - (n - 1) / n"
_CROSS = """F.cross_entropy(
        shifted, labels[:, 1:], ignore_index=IGNORE, reduction="none"
    )"""
_LOSS = "-F.logsigmoid(chosen - rejected).mean()"
_WIDE = "wide = torch.promote_types(logits.dtype, torch.float32)"

ANSWERS = {
    "pass-at-k": {
        "without putting back": (_PASS, "1 - (1 - right / samples) ** k"),
        "one minus": (_PASS, _PASS.removeprefix("1 - ")),
        "all wrong": (_PASS, _PASS.replace("samples - right, k", "right, k")),
        "not all right": (_PASS, "math.comb(right, k) / math.comb(samples, k)"),
        "not only one": (_PASS, "right * math.comb(samples - right, k - 1) / math.comb(samples, k)"),
        "k of them": (_PASS, "right / samples"),
        "not the expected number": (_PASS, "min(1.0, k * right / samples)"),
        "not whether any is right": (_PASS, "float(right > 0)"),
        "of all": (_PASS, _PASS.replace("math.comb(samples, k)", "math.comb(max(samples - right, 1), k)")),
        "large numbers": (
            _PASS,
            "1 - math.exp(math.lgamma(samples - right + 1) - math.lgamma(samples - right - k + 1)"
            " - math.lgamma(samples + 1) + math.lgamma(samples - k + 1))",
        ),
        "no floats": (_PASS, "1 - float(math.comb(samples - right, k)) / float(math.comb(samples, k))"),
        "k of 0 is refused": ("1 <= k <=", "0 <= k <="),
        "k of n is not": ("<= samples:", "< samples:"),
        "more is refused": ("if not 1 <= k <= samples:", "if not 1 <= k:"),
        "the message says k": ("k {k} is", "{k} is"),
        "and its value": ("k {k} is", "k is"),
        "the mean": ("sum(found) / len(found)", "sum(found)"),
        "over problems": (_EACH, "pass_at_k(sum(map(len, results)), sum(map(sum, results)), k)"),
        "with their own lengths": (_EACH, "pass_at_k(len(results[0]), min(sum(each), len(results[0])), k)"),
        "all of their answers": (_EACH, "pass_at_k(k, sum(each[:k]), k)"),
        "right ones are counted": (_EACH, "pass_at_k(len(each), len(each) - sum(each), k)"),
        "a short one is refused": ("for each in results]", "for each in results if len(each) >= k]"),
        "a mean, not the median": ("sum(found) / len(found)", "sorted(found)[len(found) // 2]"),
        "the answer is one's own": (
            "from course_lib.evaluation import pass_at_k as library\n\n\n"
            "def pass_at_k(samples, right, k):\n    return library(samples, right, k)\n"
        ),
    },
    "rerank": {
        "the highest": (_BETTER, _BETTER.replace("score > most", "score < most")),
        "the first of equals": (_BETTER, _BETTER.replace("score > most", "score >= most")),
        "negative scores": ("best, most = None, None", "best, most = None, 0"),
        "None is not an answer": (_BETTER, "if most is None or score > most:"),
        "nor makes all None": (_BETTER, "if most is None or (answer is not None and score > most):"),
        "the answer, not the score": ("return best", "return most"),
        "nor its place": ("best, most = answer, score", "best, most = answers.index(answer), score"),
        "not the last": (_BETTER, "if answer is not None:"),
        "one answer's score, not the sum": ("return best", "return vote(answers, scores)"),
        "the most frequent": ("max(sums, key=sums.get, default=None)", "min(sums, key=sums.get, default=None)"),
        "not the first": ("max(sums, key=sums.get, default=None)", "next(iter(sums), None)"),
        "the first of equals, in a vote": (
            "max(sums, key=sums.get, default=None)",
            "max(list(sums)[::-1], key=sums.get, default=None)",
        ),
        "not in the alphabet": (
            "max(sums, key=sums.get, default=None)",
            "max(sorted(sums), key=sums.get, default=None)",
        ),
        "None has no vote": ("        if answer is not None:\n            sums", "        if True:\n            sums"),
        "weights count": ("weights or [1] * len(answers)", "[1] * len(answers)"),
        "they are added": ("sums.get(answer, 0) + weight", "max(sums.get(answer, -9e9), weight)"),
        "not averaged": (
            "return max(sums, key=sums.get, default=None)",
            "return max(sums, key=lambda a: sums[a] / answers.count(a), default=None)",
        ),
        "with their sign": ("sums.get(answer, 0) + weight", "sums.get(answer, 0) + abs(weight)"),
        "not multiplied": ("sums.get(answer, 0) + weight", "sums.get(answer, 1) * weight"),
        "an empty text is an answer": (
            "        if answer is not None:\n            sums",
            "        if answer:\n            sums",
        ),
        "texts are compared as they are": (
            "            sums[answer] = sums.get(answer, 0) + weight",
            "            answer = answer.removesuffix('.0')\n            sums[answer] = sums.get(answer, 0) + weight",
        ),
        "all None is None": ("default=None)", "default='')"),
        "nothing is None": (
            "    best, most = None, None\n",
            "    if not answers:\n        return ''\n    best, most = None, None\n",
        ),
        "the list stays as it is": (
            "    best, most = None, None\n",
            "    answers.sort(key=str)\n    best, most = None, None\n",
        ),
    },
    "best-of-n": {
        "of n draws": (_BEST, "same"),
        "the highest": (_LOWER, _LOWER.replace("<", ">")),
        "none is better": (_BEST, "(lower + same) ** n"),
        "the difference": (_BEST, "same**n"),
        "not only one draw of it": (_BEST, "n * same * lower ** (n - 1)"),
        "not at least one": (_BEST, "1 - (1 - same) ** n"),
        "n, not n - 1": (_BEST, "(lower + same) ** (n - 1) * same"),
        "not two": (_BEST, "(lower + same) ** 2 - lower**2"),
        "equals share": (_SHARED, "best"),
        "in proportion": (_SHARED, "best / equal.sum(axis=1)"),
        "not the first of them": (_SHARED, "best * (equal.argmax(axis=1) == np.arange(len(scores)))"),
        "an answer that is never given": ("np.where(same > 0, same, 1.0)", "same"),
        "probabilities count": (_LOWER, "(scores < scores[:, None]).mean(axis=1)"),
        "scores decide, not places": (_LOWER, "np.tri(len(scores), k=-1) @ probabilities"),
        "it adds up to 1": (_SHARED, _SHARED + " * 0.999"),
        "one is possible": (
            '    if n < 1:\n        raise ValueError(f"the best of {n} is not possible")\n    equal',
            '    if n < 2:\n        raise ValueError(f"the best of {n} is not possible")\n    equal',
        ),
        "0 is refused": (
            '    if n < 1:\n        raise ValueError(f"the best of {n} is not possible")\n    equal',
            '    if n < 0:\n        raise ValueError(f"the best of {n} is not possible")\n    equal',
        ),
        "in the KL, too": (
            '    if n < 1:\n        raise ValueError(f"the best of {n} is not possible")\n    return math',
            "    n = max(n, 1)\n    return math",
        ),
        "the message names it": ("the best of {n} is", "this is"),
        "the logarithm": (_KL, "math.log(n)"),
        "minus": (_KL, "math.log(n) + (n - 1) / n"),
        "n, not n - 1, below": (_KL, "math.log(n) - (n - 1) / (n + 1)"),
        "natural": (_KL, "math.log2(n) - (n - 1) / n"),
        "not the other way round": (_KL, "(n - 1) / n - math.log(n)"),
    },
    "torch-log-probs": {
        "labels are shifted": [("logits[:, :-1].to", "logits.to"), ("labels[:, 1:]", "labels")],
        "in this direction": [("logits[:, :-1].to", "logits[:, 1:].to"), ("labels[:, 1:]", "labels[:, :-1]")],
        "the sign": ("-losses.sum(dim=1)", "losses.sum(dim=1)"),
        "a sum": ("-losses.sum(dim=1)", "-losses.mean(dim=1)"),
        "not per token": (
            "-losses.sum(dim=1)",
            "-losses.sum(dim=1) / (labels[:, 1:] != IGNORE).sum(dim=1).clamp(min=1)",
        ),
        "of each answer": ("-losses.sum(dim=1)", "-losses.sum().expand(len(labels))"),
        "IGNORE is ignored": ("ignore_index=IGNORE", "ignore_index=0"),
        "not clamped to token 0": ("labels[:, 1:], ignore_index=IGNORE", "labels[:, 1:].clamp(min=0)"),
        "token 0 counts": ("-losses.sum(dim=1)", "-(losses * (labels[:, 1:] > 0)).sum(dim=1)"),
        "float32 for halves": (_WIDE, "wide = logits.dtype"),
        "not only the result": [(_WIDE, "wide = logits.dtype"), ("-losses.sum(dim=1)", "-losses.sum(dim=1).float()")],
        "float64 stays": (_WIDE, "wide = torch.float32"),
        "float32 stays": (_WIDE, "wide = torch.float64"),
        "also float16": (_WIDE, "wide = torch.float32 if logits.dtype == torch.bfloat16 else logits.dtype"),
        "gradients flow": ("-losses.sum(dim=1)", "-losses.sum(dim=1).detach()"),
        "not the probability": ("-losses.sum(dim=1)", "torch.exp(-losses.sum(dim=1))"),
        "a softmax": (
            _CROSS,
            "-shifted.gather(1, labels[:, 1:].clamp(min=0)[:, None])[:, 0] * (labels[:, 1:] != IGNORE)",
        ),
        "over the vocabulary": (
            _CROSS,
            "-shifted.log_softmax(2).gather(1, labels[:, 1:].clamp(min=0)[:, None])[:, 0] * (labels[:, 1:] != IGNORE)",
        ),
        "a tensor": ("-losses.sum(dim=1)", "(-losses.sum(dim=1)).tolist()"),
        "the logits stay as they are": (
            "    " + _WIDE,
            "    with torch.no_grad():\n        logits.mul_(0.5)\n    " + _WIDE,
        ),
        "the answer is one's own": (
            "def torch_log_probs(logits, labels):\n    from course_lib.training.loss import summed_loss\n"
            "    return torch.stack([-summed_loss(a[None], b[None]) for a, b in zip(logits, labels)])"
        ),
    },
    "torch-dpo": {
        "the sign": (_LOSS, "F.logsigmoid(chosen - rejected).mean()"),
        "the direction": (_LOSS, "-F.logsigmoid(rejected - chosen).mean()"),
        "a mean": (_LOSS, "-F.logsigmoid(chosen - rejected).sum()"),
        "of the pairs": (_LOSS, "-F.logsigmoid((chosen - rejected).mean())"),
        "a number": (_LOSS, "-F.logsigmoid(chosen - rejected)"),
        "large numbers": (_LOSS, "-torch.log(torch.sigmoid(chosen - rejected)).mean()"),
        "not cut off": (_LOSS, "-torch.log(torch.sigmoid(chosen - rejected).clamp(min=1e-8)).mean()"),
        "beta once": (_LOSS, "-F.logsigmoid(beta * (chosen - rejected)).mean()"),
        "beta": ("chosen = beta * (policy_chosen", "chosen = (policy_chosen"),
        "of both": ("rejected = beta * (policy_rejected", "rejected = (policy_rejected"),
        "the reference": ("policy_chosen - reference_chosen.detach()", "policy_chosen"),
        "also of the rejected": ("policy_rejected - reference_rejected.detach()", "policy_rejected"),
        "no gradient into it": ("reference_chosen.detach()", "reference_chosen"),
        "into neither": ("reference_rejected.detach()", "reference_rejected"),
        "gradients into the policy": ("policy_chosen - ref", "policy_chosen.detach() - ref"),
        "into both sides": ("policy_rejected - ref", "policy_rejected.detach() - ref"),
        "rewards without a graph": ("chosen.detach(), rejected.detach()", "chosen, rejected"),
        "neither has one": ("loss, chosen.detach(), rejected.detach()", "loss, chosen.detach(), rejected"),
        "chosen first": ("loss, chosen.detach(), rejected.detach()", "loss, rejected.detach(), chosen.detach()"),
        "of each pair": (
            "loss, chosen.detach(), rejected.detach()",
            "loss, chosen.detach().mean(), rejected.detach().mean()",
        ),
        "the loss keeps its graph": ("loss, chosen.detach()", "loss.detach(), chosen.detach()"),
        "the usual beta": ("beta=0.1\n", "beta=0.5\n"),
        "a tuple": (
            "return loss, chosen.detach(), rejected.detach()",
            "return [loss, chosen.detach(), rejected.detach()]",
        ),
        "what is given stays as it is": (
            "    loss = ",
            "    with torch.no_grad():\n        reference_chosen.data.mul_(0.5)\n    loss = ",
        ),
        "the answer is one's own": (
            "def torch_dpo(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):\n"
            "    from course_lib.alignment.dpo import dpo_loss\n"
            "    a, b = reference_chosen.detach(), reference_rejected.detach()\n"
            "    losses, c, r = dpo_loss(policy_chosen, policy_rejected, a, b, beta)\n"
            "    return losses.mean(), c.detach(), r.detach()"
        ),
    },
}
