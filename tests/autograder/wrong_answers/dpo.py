"""Plausible wrong answers to `dpo`: one for each requirement that its text states. See `test_wrong_answers`.

Those of parts 7 to 10, policies and GRPO, are in `dpo_policies`; those of parts 11 to 15 in `dpo_answers`.
"""

from wrong_answers.dpo_answers import ANSWERS
from wrong_answers.dpo_policies import POLICIES

_STABLE = "        kept = kept - kept.max(axis=-1, keepdims=True)\n"
_LOSS = "np.logaddexp(0.0, -beta * (chosen - rejected))"
_WRONG = "np.exp(-np.logaddexp(0.0, beta * (chosen - rejected)))"
_DIFFERENCE = "difference = chosen / lengths[0] - rejected / lengths[1]"
_CLASSIC = "    chosen, rejected = chosen - reference[0], rejected - reference[1]\n"
_RANGE = "if not 0 <= epsilon < 0.5:"
_MARGIN = "math.log((1 - epsilon) / epsilon) / beta if epsilon else math.inf"

WRONG = {
    "log-probs": {
        "labels are shifted": [
            ("targets = labels[:, 1:]", "targets = labels"),
            ("logits[:, :-1][counted]", "logits[counted]"),
        ],
        "in this direction": [
            ("targets = labels[:, 1:]", "targets = labels[:, :-1]"),
            ("logits[:, :-1][counted]", "logits[:, 1:][counted]"),
        ],
        "a sum": ("found.sum(axis=1), counted", "found.sum(axis=1) / np.maximum(counted.sum(axis=1), 1), counted"),
        "of each answer": ("found.sum(axis=1),", "np.full(len(found), found.sum()),"),
        "the sign": ("found[counted] = chosen -", "found[counted] = -chosen +"),
        "a logarithm": (
            "found[counted] = chosen - np.log(np.exp(kept).sum(axis=-1))",
            "found[counted] = np.exp(chosen)",
        ),
        "of the softmax": ("chosen - np.log(np.exp(kept).sum(axis=-1))", "chosen"),
        "over the vocabulary": ("np.exp(kept).sum(axis=-1)", "np.exp(kept).sum()"),
        "natural": ("np.log(np.exp(kept)", "np.log2(np.exp(kept)"),
        "large logits do not overflow": (_STABLE, ""),
        "nor do small ones vanish": (
            "kept.max(axis=-1, keepdims=True)",
            "np.maximum(kept.max(axis=-1, keepdims=True), 0)",
        ),
        "the largest of its own position": ("kept.max(axis=-1, keepdims=True)", "kept.max()"),
        "they are not cut off": (_STABLE, "        kept = np.clip(kept, -30, 30)\n"),
        "a small probability is not rounded up": (
            "chosen - np.log(np.exp(kept).sum(axis=-1))",
            "np.log(np.exp(chosen) / np.exp(kept).sum(axis=-1) + 1e-12)",
        ),
        "only where a label is": ("counted = targets != IGNORE", "counted = np.full(targets.shape, True)"),
        "a token 0 is a token": ("counted = targets != IGNORE", "counted = targets > 0"),
        "NaN times 0 is NaN": (
            "return found.sum(axis=1),",
            "return (found + 0 * np.where(counted, 0, logits[:, :-1].sum(-1))).sum(axis=1),",
        ),
        "the number of predicted tokens": ("counted.sum(axis=1)", "(labels != IGNORE).sum(axis=1)"),
        "not the row's length": ("counted.sum(axis=1)", "np.full(len(labels), counted.shape[1])"),
        "integers": ("counted.sum(axis=1)", "counted.sum(axis=1).astype(float)"),
        "an answer without tokens": (
            "found.sum(axis=1),",
            "np.where(counted.any(axis=1), found.sum(axis=1), -np.inf),",
        ),
        "sums first": (
            "return found.sum(axis=1), counted.sum(axis=1)",
            "return counted.sum(axis=1), found.sum(axis=1)",
        ),
        "the logits stay as they are": (
            "    targets = labels[:, 1:]\n",
            "    targets = labels[:, 1:]\n    logits[:, -1] = 0\n",
        ),
        "the answer is one's own": (
            "def sequence_log_probs(logits, labels):\n    from course_lib.scratch import preferences\n"
            "    clean = np.where((labels != IGNORE)[..., None], logits, logits)\n"
            "    return preferences.sequence_log_probs(clean, labels), (labels[:, 1:] != IGNORE).sum(axis=1)"
        ),
    },
    "rewards": {
        "relative to the reference": ("(policy_chosen - reference_chosen)", "policy_chosen"),
        "also the rejected": ("(policy_rejected - reference_rejected)", "policy_rejected"),
        "each to its own": ("policy_rejected - reference_rejected", "policy_rejected - reference_chosen"),
        "not the other way round": ("policy_chosen - reference_chosen", "reference_chosen - policy_chosen"),
        "times beta": ("chosen = beta * (policy_chosen", "chosen = (policy_chosen"),
        "rejected, too": ("rejected = beta * (policy_rejected", "rejected = (policy_rejected"),
        "not divided": (
            "chosen = beta * (policy_chosen - reference_chosen)",
            "chosen = (policy_chosen - reference_chosen) / beta",
        ),
        "not a ratio": ("(policy_chosen - reference_chosen)", "(policy_chosen / reference_chosen)"),
        "means": ("float(chosen.mean())", "float(chosen.sum())"),
        "of all pairs": ('"rejected": float(rejected.mean())', '"rejected": float(rejected[0])'),
        "not medians": ('"rejected": float(rejected.mean())', '"rejected": float(np.median(rejected))'),
        "chosen minus rejected": ("(chosen - rejected).mean()", "(rejected - chosen).mean()"),
        "the margin has its sign": ("(chosen - rejected).mean()", "abs(chosen - rejected).mean()"),
        "it has beta once": ("(chosen - rejected).mean()", "(beta * (chosen - rejected)).mean()"),
        "chosen above rejected": ("(chosen > rejected)", "(chosen < rejected)"),
        "equal is not right": ("(chosen > rejected)", "(chosen >= rejected)"),
        "not above 0": ("(chosen > rejected)", "(chosen > 0)"),
        "pair by pair": ("(chosen > rejected).mean()", "(chosen.mean() > rejected.mean())"),
        "a share": ("(chosen > rejected).mean()", "(chosen > rejected).sum()"),
        "not of the log-probabilities": ("(chosen > rejected)", "(policy_chosen > policy_rejected)"),
        "numbers": ("float(chosen.mean())", "chosen"),
        "these names": ('"accuracy"', '"accuracies"'),
        "a dictionary": ("(chosen > rejected).mean()),\n    }", "(chosen > rejected).mean()),\n    }.items()"),
    },
    "dpo-loss": {
        "the sign": (_LOSS, "np.logaddexp(0.0, beta * (chosen - rejected))"),
        "minus the logarithm": (_LOSS, "-np.logaddexp(0.0, -beta * (chosen - rejected))"),
        "a logarithm": (_LOSS, "1 / (1 + np.exp(np.clip(beta * (chosen - rejected), -500, 500)))"),
        "of the sigmoid": (_LOSS, "-beta * (chosen - rejected)"),
        "not the hinge": (_LOSS, "np.maximum(0.0, -beta * (chosen - rejected))"),
        "beta": (_LOSS, "np.logaddexp(0.0, -(chosen - rejected))"),
        "inside": (_LOSS, "beta * np.logaddexp(0.0, -(chosen - rejected))"),
        "not divided by it": (_LOSS, "np.logaddexp(0.0, -(chosen - rejected) / beta)"),
        "once": (_LOSS, "np.logaddexp(0.0, -beta**2 * (chosen - rejected))"),
        "the reference counts": ("policy_chosen - reference_chosen", "policy_chosen"),
        "also of the rejected": ("policy_rejected - reference_rejected", "policy_rejected"),
        "its sign": ("policy_chosen - reference_chosen", "policy_chosen + reference_chosen"),
        "its own": ("policy_chosen - reference_chosen", "policy_chosen - reference_rejected"),
        "large numbers do not overflow": (_LOSS, "np.log(1 + np.exp(-beta * (chosen - rejected)))"),
        "nor round to 0": (_LOSS, "-np.log(1 / (1 + np.exp(-beta * (chosen - rejected))))"),
        "they are not cut off": (_LOSS, "np.logaddexp(0.0, np.clip(-beta * (chosen - rejected), -60, 60))"),
        "a small loss is not rounded up": (_LOSS, "np.logaddexp(0.0, -beta * (chosen - rejected)) + 1e-15"),
        "natural": (_LOSS, _LOSS + " / np.log(2)"),
        "of each pair": (_LOSS, _LOSS + ".mean()"),
        "the usual beta": ("beta=0.1\n", "beta=0.5\n"),
        "0 is refused": ("if not beta > 0:", "if beta < 0:"),
        "below 0 as well": ("if not beta > 0:", "if beta == 0:"),
        "a small one is not": ("if not beta > 0:", "if not beta >= 0.1:"),
        "the message says beta": ("beta {beta} is", "{beta} is"),
        "and its value": ("beta {beta} is", "beta is"),
        "what is given stays as it is": (
            "    chosen = policy_chosen - reference_chosen\n",
            "    policy_chosen -= reference_chosen\n    chosen = policy_chosen\n",
        ),
        "the answer is one's own": (
            "def dpo_losses(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):\n"
            "    from course_lib.scratch.preferences import dpo_loss\n"
            "    return dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)[0]"
        ),
    },
    "dpo-gradient": {
        "chosen goes up": ("return -gradient, gradient", "return gradient, gradient"),
        "rejected goes down": ("return -gradient, gradient", "return -gradient, -gradient"),
        "in this order": ("return -gradient, gradient", "return gradient, -gradient"),
        "beta outside": ("beta * wrong / len(wrong)", "wrong / len(wrong)"),
        "once": ("beta * wrong / len(wrong)", "beta**2 * wrong / len(wrong)"),
        "beta inside": (_WRONG, _WRONG.replace("beta * ", "")),
        "of the mean": ("beta * wrong / len(wrong)", "beta * wrong"),
        "over the pairs": ("len(wrong)", "(2 * len(wrong))"),
        "one number for each pair": (
            "gradient = beta * wrong / len(wrong)",
            "gradient = np.full(len(wrong), beta * wrong.mean() / len(wrong))",
        ),
        "large where it is wrong": (_WRONG, _WRONG.replace("0.0, beta", "0.0, -beta")),
        "not the derivative of the sigmoid": ("beta * wrong / len", "beta * wrong * (1 - wrong) / len"),
        "not of a hinge": (_WRONG, "(beta * (chosen - rejected) < 0) * 1.0"),
        "the reference counts": ("policy_chosen - reference_chosen", "policy_chosen"),
        "of both": ("policy_rejected - reference_rejected", "policy_rejected"),
        "its sign": ("policy_rejected - reference_rejected", "policy_rejected + reference_rejected"),
        "no overflow": (_WRONG, "1 / (1 + np.exp(beta * (chosen - rejected)))"),
        "not cut off": (
            _WRONG,
            _WRONG.replace("beta * (chosen - rejected)", "np.clip(beta * (chosen - rejected), -20, 20)"),
        ),
        "a small one is not 0": (_WRONG, "1 - np.exp(-np.logaddexp(0.0, -beta * (chosen - rejected)))"),
        "with its sign for small h": (_WRONG, "0.5 - beta * (chosen - rejected) / 4"),
        "two arrays": ("return -gradient, gradient", "return np.stack([-gradient, gradient])"),
        "the usual beta": ("beta=0.1\n", "beta=1.0\n"),
        "what is given stays as it is": (
            "    chosen = policy_chosen - reference_chosen\n",
            "    chosen = policy_chosen\n    chosen -= reference_chosen\n",
        ),
        "the answer is one's own": (
            "def dpo_gradient(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):\n"
            "    from course_lib.scratch import preferences\n    n = len(policy_chosen)\n"
            "    pairs = policy_chosen, policy_rejected, reference_chosen, reference_rejected\n"
            "    a, b = preferences.dpo_gradient(*pairs, beta)\n    return a / n, b / n"
        ),
    },
    "smoothing": {
        "a mean of both": ("+ epsilon * wrong", ""),
        "weighted": ("(1 - epsilon) * right + epsilon * wrong", "right + epsilon * wrong"),
        "the right one more": ("(1 - epsilon) * right + epsilon * wrong", "epsilon * right + (1 - epsilon) * wrong"),
        "not subtracted": ("+ epsilon * wrong", "- epsilon * wrong"),
        "smoothed, not robust": (
            "return (1 - epsilon) * right + epsilon * wrong",
            "return ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)",
        ),
        "outside of the logarithm": (
            "return (1 - epsilon) * right + epsilon * wrong",
            "return -np.log((1 - epsilon) * np.exp(-right) + epsilon * np.exp(-wrong))",
        ),
        "the sign": (
            "np.logaddexp(0.0, -beta * h), np.logaddexp(0.0, beta * h)",
            "np.logaddexp(0.0, beta * h), np.logaddexp(0.0, -beta * h)",
        ),
        "beta": ("np.logaddexp(0.0, -beta * h)", "np.logaddexp(0.0, -h)"),
        "in both": ("np.logaddexp(0.0, beta * h)", "np.logaddexp(0.0, h)"),
        "large numbers do not overflow": ("np.logaddexp(0.0, beta * h)", "np.log(1 + np.exp(beta * h))"),
        "of either sign": ("np.logaddexp(0.0, -beta * h)", "np.log(1 + np.exp(-beta * h))"),
        "they are not cut off": ("np.logaddexp(0.0, -beta * h)", "np.logaddexp(0.0, np.minimum(-beta * h, 50))"),
        "of each pair": ("+ epsilon * wrong", "+ epsilon * wrong.mean()"),
        "0.5 is refused": (_RANGE, "if not 0 <= epsilon <= 0.5:"),
        "above it, too": (_RANGE, "if epsilon == 0.5 or epsilon < 0:"),
        "and below 0": (_RANGE, "if not epsilon < 0.5:"),
        "0 is not": (_RANGE, "if not 0 < epsilon < 0.5:"),
        "the message says epsilon": ("epsilon {epsilon} is", "{epsilon} is"),
        "and its value": ("epsilon {epsilon} is", "epsilon is"),
        "the margin's beta": (_MARGIN, _MARGIN.replace(" / beta", "")),
        "divides": (_MARGIN, _MARGIN.replace("/ beta", "* beta")),
        "the margin is positive": (_MARGIN, _MARGIN.replace("(1 - epsilon) / epsilon", "epsilon / (1 - epsilon)")),
        "of the odds": (_MARGIN, _MARGIN.replace("(1 - epsilon) / epsilon", "1 / epsilon")),
        "natural": (_MARGIN, _MARGIN.replace("math.log(", "math.log2(")),
        "none without smoothing": (_MARGIN, _MARGIN.replace("math.inf", "0.0")),
        "nor a large number": (_MARGIN, _MARGIN.replace("math.inf", "1e9")),
    },
    "other-losses": {
        "hinge is not below 0": ("np.maximum(0.0, 1 - beta", "(1 - beta"),
        "its margin is 1": ("1 - beta * (chosen", "-beta * (chosen"),
        "not of h": ("1 - beta * (chosen", "1 / beta - (chosen"),
        "beta in it": ("1 - beta * (chosen", "1 - (chosen"),
        "its sign": ("1 - beta * (chosen", "1 + beta * (chosen"),
        "hinge has no lengths": (
            "return np.maximum(0.0, 1 - beta * (chosen - rejected))",
            "return np.maximum(0.0, 1 - beta * (chosen / lengths[0] - rejected / lengths[1]))",
        ),
        "ipo is a square": ("(difference - 1 / (2 * beta)) ** 2", "abs(difference - 1 / (2 * beta))"),
        "with a goal": ("(difference - 1 / (2 * beta)) ** 2", "difference**2"),
        "of half": ("1 / (2 * beta)", "1 / beta"),
        "not beta half": ("1 / (2 * beta)", "beta / 2"),
        "subtracted": ("difference - 1 / (2", "difference + 1 / (2"),
        "not multiplied": ("(difference - 1 / (2 * beta)) ** 2", "(beta * difference - 1 / (2 * beta)) ** 2"),
        "per token": ("    " + _DIFFERENCE + "\n    return (", "    difference = chosen - rejected\n    return ("),
        "each by its own length": (
            "    " + _DIFFERENCE + "\n    return (",
            "    difference = (chosen - rejected) / lengths[0]\n    return (",
        ),
        "ipo has a reference": (_CLASSIC, "    if kind == 'hinge':\n    " + _CLASSIC),
        "hinge has one": (_CLASSIC, "    if kind == 'ipo':\n    " + _CLASSIC),
        "simpo has none": (
            "        " + _DIFFERENCE + "\n        return",
            "        difference = (chosen - reference[0]) / lengths[0] - (rejected - reference[1]) / lengths[1]\n"
            "        return",
        ),
        "nor needs one": ('    if kind == "simpo":\n', '    reference[0] + reference[1]\n    if kind == "simpo":\n'),
        "simpo per token": (
            "        " + _DIFFERENCE + "\n        return",
            "        difference = chosen - rejected\n        return",
        ),
        "its margin": ("gamma - beta * difference", "-beta * difference"),
        "makes it harder": ("gamma - beta * difference", "-gamma - beta * difference"),
        "outside of beta": ("gamma - beta * difference", "beta * gamma - beta * difference"),
        "its beta": ("gamma - beta * difference", "gamma - difference"),
        "its direction": ("gamma - beta * difference", "gamma + beta * difference"),
        "a logarithm": ("np.logaddexp(0.0, gamma - beta * difference)", "np.maximum(0.0, gamma - beta * difference)"),
        "no overflow": (
            "np.logaddexp(0.0, gamma - beta * difference)",
            "np.log(1 + np.exp(gamma - beta * difference))",
        ),
        "the usual gamma": ("gamma=0.5", "gamma=1.0"),
        "another name is refused": ('not in ("hinge", "ipo", "simpo")', 'not in ("hinge", "ipo", "simpo", "sigmoid")'),
        "also the empty one": ("if kind not in", "if kind and kind not in"),
        "capitals are another": ("kind not in", "kind.lower() not in"),
        "the message names it": ("no loss {kind!r}", "no such loss"),
    },
    **POLICIES,
    **ANSWERS,
}
