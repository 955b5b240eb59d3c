"""Plausible wrong answers to parts 7 to 10 of `dpo`: the best policy, the objective, and GRPO."""

_POSSIBLE = "possible = reference > 0"
_SHIFTED = "np.exp(exponents - exponents.max())"
_KL = "(policy * np.log(policy / reference)).sum()"
_RESULT = "float((policy * rewards).sum() - beta * kl)"
_RATIO = "np.exp(np.where(real, policy, 0.0) - np.where(real, old, 0.0))"
_LOSSES = "-np.minimum(ratio * gain, clipped * gain) * real"
_MEANS = "losses.sum(axis=1) / np.maximum(real.sum(axis=1), 1)"

POLICIES = {
    "optimal-policy": {
        "the reference counts": ("reference[possible] * np.exp", "np.exp"),
        "not its logarithm": ("reference[possible] * np.exp", "np.log(reference[possible]) * np.exp"),
        "divided by beta": ("rewards[possible] / beta", "rewards[possible]"),
        "not multiplied": ("rewards[possible] / beta", "rewards[possible] * beta"),
        "better is likelier": ("rewards[possible] / beta", "-rewards[possible] / beta"),
        "an exponential": (_SHIFTED, "np.maximum(exponents - exponents.min(), 0)"),
        "a policy adds up to 1": ("weights / weights.sum()", "weights"),
        "not divided by the largest": ("weights / weights.sum()", "weights / weights.max()"),
        "nor by the reference's sum": ("weights / weights.sum()", "weights / reference.sum()"),
        "nor normalised before": (
            "return weights / weights.sum()",
            "weights[possible] = np.exp(exponents - exponents.max())\n    return reference * weights / weights.sum()",
        ),
        "large exponents do not overflow": (_SHIFTED, "np.exp(exponents)"),
        "nor vanish": (_SHIFTED, "np.exp(exponents - abs(exponents).max())"),
        "not the smallest": (_SHIFTED, "np.exp(exponents - exponents.min())"),
        "they are not cut off": (_SHIFTED, "np.exp(np.clip(exponents, -30, 30))"),
        "the best that can be given": (_POSSIBLE, "possible = reference >= 0"),
        "0 stays 0": ("return weights / weights.sum()", "weights = weights + 1e-9\n    return weights / weights.sum()"),
        "the rare are not left out": (_POSSIBLE, "possible = reference > 1e-12"),
        "not only the best": (
            "return weights / weights.sum()",
            "return np.where(weights == weights.max(), 1.0, 0.0) / (weights == weights.max()).sum()",
        ),
        "not the reference": ("return weights / weights.sum()", "return reference / reference.sum()"),
        "rewards are not centred away": (
            "rewards[possible] / beta",
            "rewards[possible] / beta / abs(rewards[possible]).max()",
        ),
        "the rewards stay as they are": ("    " + _POSSIBLE, "    rewards -= rewards.max()\n    " + _POSSIBLE),
    },
    "objective": {
        "the reward": (_RESULT, "float(-beta * kl)"),
        "the policy's": ("(policy * rewards).sum()", "(reference * rewards).sum()"),
        "not of all alike": ("(policy * rewards).sum()", "rewards.mean()"),
        "not the best": ("(policy * rewards).sum()", "rewards.max()"),
        "a cost": (_RESULT, "float((policy * rewards).sum() + beta * kl)"),
        "beta": (_RESULT, "float((policy * rewards).sum() - kl)"),
        "of the cost alone": (_RESULT, "float(beta * ((policy * rewards).sum() - kl))"),
        "not divided": (_RESULT, "float((policy * rewards).sum() / max(beta, 1e-9) - kl)"),
        "the KL from the reference": (_KL, "(reference * np.log(reference / policy)).sum()"),
        "weighted by the policy": (_KL, "np.log(policy / reference).sum()"),
        "its direction": (_KL, "(policy * np.log(reference / policy)).sum()"),
        "not the entropy": (_KL, "(policy * np.log(policy)).sum()"),
        "natural": (_KL, "(policy * np.log2(policy / reference)).sum()"),
        "not the distance": (_KL, "((policy - reference) ** 2).sum()"),
        "0 log 0 is 0": ("given = policy > 0", "given = policy >= 0"),
        "nor a small number": [
            ("given = policy > 0", "given = policy >= 0\n    policy = policy + 1e-6"),
            ("if (reference[given] == 0).any():", "reference = reference + 1e-6\n    if False:"),
        ],
        "what the reference never gives": ("if (reference[given] == 0).any():", "if False:"),
        "minus infinity": ("return -math.inf", "return math.inf"),
        "not 0": ("return -math.inf", "return 0.0"),
        "also one of several": ("(reference[given] == 0).any()", "(reference[given] == 0).all()"),
        "only where the policy goes": ("(reference[given] == 0).any()", "(reference == 0).any()"),
        "not left out": (
            "    if (reference[given] == 0).any():\n        return -math.inf\n",
            "    given &= reference > 0\n",
        ),
        "a number": (_RESULT, "policy * rewards - beta * kl"),
    },
    "advantages": {
        "the mean of the group": ("groups.mean(axis=1, keepdims=True)", "groups.mean()"),
        "is subtracted": ("groups - groups.mean(axis=1, keepdims=True)", "groups"),
        "the mean, not the median": ("groups.mean(axis=1, keepdims=True)", "np.median(groups, axis=1, keepdims=True)"),
        "nor the best": ("groups.mean(axis=1, keepdims=True)", "groups.max(axis=1, keepdims=True)"),
        "better is positive": ("(centred / (spread", "(-centred / (spread"),
        "divided by the deviation": ("(centred / (spread + 1e-4))", "(centred)"),
        "of the group": ("groups.std(axis=1, ddof=1, keepdims=True)", "groups.std(ddof=1)"),
        "of a sample": ("ddof=1, ", ""),
        "not by the variance": ("groups.std(axis=1, ddof=1", "groups.var(axis=1, ddof=1"),
        "with the small number": ("(spread + 1e-4)", "np.where(spread > 0, spread, 1.0)"),
        "this one": ("1e-4", "1e-8"),
        "added, not a least value": ("(spread + 1e-4)", "np.maximum(spread, 1e-4)"),
        "outside of the root": ("(spread + 1e-4)", "np.sqrt(spread**2 + 1e-4)"),
        "equal rewards are 0": ("1e-4", "0.0"),
        "neighbours are a group": (
            [
                ("rewards.reshape(-1, group_size)", "rewards.reshape(group_size, -1).T"),
                ("(spread + 1e-4)).reshape(-1)", "(spread + 1e-4)).T.reshape(-1)"),
            ]
        ),
        "one number each": ("(centred / (spread + 1e-4)).reshape(-1)", "centred / (spread + 1e-4)"),
        "one is no group": ("group_size < 2 or", "group_size < 1 or"),
        "two are": ("group_size < 2 or", "group_size < 3 or"),
        "whole groups": (" or len(rewards) % group_size", ""),
        "nor fewer than one": (
            "if group_size < 2 or len(rewards) % group_size:",
            "if group_size < 2 or len(rewards) > group_size and len(rewards) % group_size:",
        ),
        "the message says group_size": (": group_size {group_size}", ": {group_size}"),
        "and its value": (": group_size {group_size}", ": group_size"),
        "the rewards stay as they are": (
            "    groups = rewards.reshape",
            "    rewards -= rewards.mean()\n    groups = rewards.reshape",
        ),
    },
    "grpo-loss": {
        "the ratio of probabilities": (_RATIO, _RATIO.replace("np.exp", "")),
        "new to old": (_RATIO, "np.exp(np.where(real, old, 0.0) - np.where(real, policy, 0.0))"),
        "of each token": (
            _RATIO,
            "np.exp((np.where(real, policy - old, 0.0)).sum(axis=1, keepdims=True)) * np.ones(mask.shape)",
        ),
        "the old one counts": (_RATIO, "np.exp(np.where(real, policy, 0.0))"),
        "the sign": (_LOSSES, _LOSSES[1:]),
        "the smaller": (_LOSSES, _LOSSES.replace("minimum", "maximum")),
        "clipped": (_LOSSES, "-ratio * gain * real"),
        "not where it is wrong": (_LOSSES, "-clipped * gain * real"),
        "above": ("np.clip(ratio, 1 - epsilon, 1 + epsilon)", "np.maximum(ratio, 1 - epsilon)"),
        "and below": ("np.clip(ratio, 1 - epsilon, 1 + epsilon)", "np.minimum(ratio, 1 + epsilon)"),
        "around 1": ("np.clip(ratio, 1 - epsilon, 1 + epsilon)", "np.clip(ratio, -epsilon, epsilon)"),
        "not its inverse": ("1 - epsilon, 1 + epsilon", "1 / (1 + epsilon), 1 + epsilon"),
        "before the advantage": (_LOSSES, "-np.minimum(ratio, clipped) * gain * real"),
        "the advantage": ("gain = advantages[:, None]", "gain = 1.0"),
        "with its sign": ("gain = advantages[:, None]", "gain = abs(advantages[:, None])"),
        "of its own answer": ("gain = advantages[:, None]", "gain = advantages.mean()"),
        "the mask": ("real = mask == 1", "real = mask >= 0"),
        "NaN times 0 is NaN": (_RATIO, "np.exp(policy - old)"),
        "within the answer first": (
            "return float(means.mean())",
            "return float(losses.sum() / real.sum())",
        ),
        "over its tokens": (_MEANS, "losses.mean(axis=1)"),
        "a mean, not a sum": (_MEANS, "losses.sum(axis=1)"),
        "over the answers": ("float(means.mean())", "float(means.sum())"),
        "an empty one is an answer": ("float(means.mean())", "float(means[real.any(axis=1)].mean())"),
        "and no NaN": (_MEANS, "losses.sum(axis=1) / real.sum(axis=1)"),
        "the usual epsilon": ("epsilon=0.2", "epsilon=0.1"),
        "the answer is one's own": (
            "def grpo_loss(policy, old, advantages, mask, epsilon=0.2):\n"
            "    import torch\n    from course_lib.alignment.grpo import grpo_loss as theirs\n"
            "    a, b, m = (torch.tensor(np.nan_to_num(x, neginf=0) * 1.0) for x in (policy, old, mask))\n"
            "    return theirs(a * m, b * m, torch.tensor(advantages), m, epsilon=epsilon).item()"
        ),
    },
}
