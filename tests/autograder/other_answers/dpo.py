"""Answers to `dpo`, part by part, that are right in another way than the reference."""

OTHERS = {
    "log-probs": """
def sequence_log_probs(logits, labels):
    out, sizes = [], []
    for z, said in zip(logits, labels):
        places = np.flatnonzero(said[1:] != -100)
        rows = z[places]
        chosen = rows[np.arange(len(places)), said[places + 1]]
        out.append(float((chosen - np.logaddexp.reduce(rows, axis=-1)).sum()))
        sizes.append(len(places))
    return np.array(out), np.array(sizes)
""",
    "rewards": """
def reward_metrics(a, b, c, d, beta):
    pairs = [(beta * (w - x), beta * (l - y)) for w, l, x, y in zip(a, b, c, d)]
    n = len(pairs)
    return dict(
        accuracy=sum(1 for w, l in pairs if w > l) / n,
        margin=sum(w - l for w, l in pairs) / n,
        chosen=sum(w for w, _ in pairs) / n,
        rejected=sum(l for _, l in pairs) / n,
    )
""",
    "dpo-loss": """
def dpo_losses(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    if beta <= 0:
        raise ValueError("beta must be above 0, and is " + str(beta))
    x = beta * ((policy_chosen - policy_rejected) - (reference_chosen - reference_rejected))
    return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))
""",
    "dpo-gradient": """
def dpo_gradient(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    x = beta * (policy_chosen - policy_rejected - reference_chosen + reference_rejected)
    small = np.exp(-np.abs(x))
    wrong = np.where(x > 0, small, 1.0) / (1 + small)
    return -beta * wrong / x.size, beta * wrong / x.size
""",
    "smoothing": """
def _checked(epsilon):
    if epsilon < 0 or epsilon >= 0.5:
        raise ValueError("epsilon " + repr(epsilon))
    return epsilon


def smoothed_losses(h, beta, epsilon):
    x = beta * h
    return np.maximum(-x, 0) + np.log1p(np.exp(-abs(x))) + _checked(epsilon) * x


def best_margin(beta, epsilon):
    if _checked(epsilon) == 0:
        return float("inf")
    return (math.log1p(-epsilon) - math.log(epsilon)) / beta
""",
    "other-losses": """
def preference_losses(kind, pairs, lengths, beta, gamma=0.5):
    a, b, c, d = pairs
    n, m = lengths
    if kind == "hinge":
        margin = 1 - beta * ((a - b) - (c - d))
        return np.where(margin > 0, margin, 0.0)
    elif kind == "ipo":
        return np.square((a - c) / n - (b - d) / m - 0.5 / beta)
    elif kind == "simpo":
        x = beta * a / n - beta * b / m - gamma
        return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))
    raise ValueError("unknown loss: " + kind)
""",
    "optimal-policy": """
def optimal_policy(reference, rewards, beta):
    logs = [math.log(p) + r / beta if p > 0 else -math.inf for p, r in zip(reference, rewards)]
    top = max(logs)
    weights = [math.exp(each - top) for each in logs]
    return np.array(weights) / sum(weights)
""",
    "objective": """
def objective(policy, reference, rewards, beta):
    total = 0.0
    for p, q, r in zip(policy.tolist(), reference.tolist(), rewards.tolist()):
        if p == 0:
            continue
        if q == 0:
            return float("-inf")
        total += p * (r - beta * (math.log(p) - math.log(q)))
    return total
""",
    "advantages": """
def group_advantages(rewards, group_size):
    groups, left = divmod(len(rewards), group_size) if group_size > 0 else (0, 1)
    if left or group_size == 1:
        raise ValueError("bad group_size: " + str(group_size))
    out = []
    for group in np.split(rewards, groups):
        out.append((group - group.mean()) / (np.sqrt(np.var(group, ddof=1)) + 1e-4))
    return np.concatenate(out)
""",
    "grpo-loss": """
def grpo_loss(policy, old, advantages, mask, epsilon=0.2):
    means = []
    for new, before, A, real in zip(policy, old, advantages, mask):
        w = np.exp(new[real > 0] - before[real > 0])
        worst = np.minimum(w, 1 + epsilon) * A if A >= 0 else np.maximum(w, 1 - epsilon) * A
        means.append(-worst.sum() / max(len(w), 1))
    return np.mean(means)
""",
    "pass-at-k": """
def pass_at_k(samples, right, k):
    if k < 1 or k > samples:
        raise ValueError(f"k = {k} is not possible")
    miss = 1.0
    for i in range(k):
        miss *= max(samples - right - i, 0) / (samples - i)
    return 1 - miss


def mean_pass_at_k(results, k):
    return np.mean([pass_at_k(len(r), r.count(True), k) for r in results])
""",
    "rerank": """
def best_of_n(answers, scores):
    real = [i for i, a in enumerate(answers) if a is not None]
    return answers[max(real, key=lambda i: scores[i])] if real else None


def vote(answers, weights=None):
    real = [a for a in answers if a is not None]
    if not real:
        return None
    if weights is None:
        return sorted(dict.fromkeys(real), key=lambda a: -real.count(a))[0]
    total = {a: sum(w for b, w in zip(answers, weights) if b == a) for a in dict.fromkeys(real)}
    return [a for a in total if total[a] == max(total.values())][0]
""",
    "best-of-n": """
def best_of_n_policy(probabilities, scores, n):
    if n <= 0:
        raise ValueError(f"n = {n}")
    out, below = np.zeros(len(scores)), 0.0
    for level in np.unique(scores):
        here = scores == level
        mass = probabilities[here].sum()
        if mass > 0:
            out[here] = ((below + mass) ** n - below**n) * (probabilities[here] / mass)
        below += mass
    return out


def best_of_n_kl(n):
    if n <= 0:
        raise ValueError(f"n = {n}")
    return np.log(n) - 1 + 1 / n
""",
    "torch-log-probs": """
def torch_log_probs(logits, labels):
    z = logits[:, :-1]
    if z.dtype not in (torch.float32, torch.float64):
        z = z.float()
    targets, real = labels[:, 1:], labels[:, 1:] != -100
    index = targets.masked_fill(~real, 0)[..., None]
    found = z.gather(-1, index).squeeze(-1) - z.logsumexp(-1)
    return (found * real).sum(-1)
""",
    "torch-dpo": """
def torch_dpo(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    with torch.no_grad():
        shift = reference_chosen - reference_rejected
        rewards = beta * (policy_chosen - reference_chosen), beta * (policy_rejected - reference_rejected)
    h = policy_chosen - policy_rejected - shift
    return F.softplus(-beta * h).sum() / len(h), *rewards
""",
}
