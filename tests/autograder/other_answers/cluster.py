"""Answers to `cluster`, part by part, that are right in another way than the reference."""

OTHERS = {
    "part-bounds": """
def part_bounds(length, ranks):
    if ranks <= 0:
        raise ValueError("bad ranks: " + str(ranks))
    sizes = [length // ranks + 1] * (length % ranks)
    sizes += [length // ranks] * (ranks - len(sizes))
    return [(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(ranks)]
""",
    "reduce-round": """
def reduce_round(held, step):
    n, out = len(held), []
    for to in range(n):
        row = list(held[to])
        i = (to - 1 - step) % n
        row[i] = row[i] + held[to - 1][i]
        out.append(row)
    return out
""",
    "all-reduce": """
def all_reduce(vectors):
    n = len(vectors)
    for v in vectors:
        if v.size != vectors[0].size:
            raise ValueError("another length")
    total = np.zeros(vectors[0].size)
    for v in vectors:
        total = total + v
    sizes = [p.size for p in np.array_split(total, n)]
    first = [sum(sizes) - sizes[(r + 1) % n] for r in range(n)]
    second = [sum(sizes) - sizes[(r + 2) % n] for r in range(n)]
    return [total.copy() for _ in range(n)], [a + b for a, b in zip(first, second)]
""",
    "average-gradients": """
def average_gradients(gradients, tokens):
    total = sum(tokens)
    if not total:
        raise ValueError("there are no tokens")
    out = {}
    for name in gradients[0]:
        acc = np.zeros(gradients[0][name].shape)
        for g, t in zip(gradients, tokens):
            if t > 0:
                acc = acc + g[name] * (t / total)
        out[name] = acc
    return out
""",
    "loss-factors": """
def loss_factors(tokens):
    if not tokens.any():
        raise ValueError("no tokens")
    mean_of_a_rank = tokens.sum() / tokens.shape[0]
    return np.array([[t / mean_of_a_rank for t in row] for row in tokens])
""",
    "sharded-step": """
def sharded_step(weights, gradients, velocities, lr, momentum):
    whole = np.concatenate(velocities) * momentum + np.sum(gradients, axis=0)
    return weights - lr * whole, np.array_split(whole, len(velocities))
""",
    "training-flops": """
def training_flops(shape, seq_len, tokens, recompute=False):
    q = shape["width"] * shape["heads"] * shape["head_dim"]
    kv = shape["width"] * shape["kv_heads"] * shape["head_dim"]
    block = 2 * (2 * q + 2 * kv + 3 * shape["width"] * shape["mlp"])
    block += 4 * seq_len * shape["heads"] * shape["head_dim"]
    once = shape["layers"] * block + 2 * shape["vocab"] * shape["width"]
    return once * tokens * (3 + int(recompute))
""",
    "run-plan": """
def run_plan(flops, nodes, gpus, peak, mfu, limit, rate):
    if mfu <= 0 or mfu > 1:
        raise ValueError("mfu: " + str(mfu))
    hours = flops / nodes / gpus / peak / mfu / 3600
    lengths = [limit] * int(hours // limit)
    if hours % limit > 0 or not lengths:
        lengths.append(hours % limit)
    return hours, len(lengths), sum(nodes * rate * max(h, 0.25) for h in lengths)
""",
    "rank-bytes": """
def rank_bytes(parameters, ranks, stage):
    everywhere = {0: 16, 1: 8, 2: 4, 3: 0}
    if stage not in everywhere:
        raise ValueError("no stage " + str(stage))
    kept = everywhere[stage]
    return parameters * kept + parameters * (16 - kept) / ranks
""",
    "limit-seconds": """
def limit_seconds(text):
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    words = parts + ([days] if dash else [])
    if len(parts) > 3 or not all(w.isdigit() for w in words):
        raise ValueError(text)
    parts = [int(p) for p in parts]
    if dash:
        units = [3600, 60, 1]
        return int(days) * 86400 + sum(p * u for p, u in zip(parts, units))
    units = {1: [60], 2: [60, 1], 3: [3600, 60, 1]}[len(parts)]
    return sum(p * u for p, u in zip(parts, units))
""",
    "script-requests": """
def script_requests(text):
    names = dict(t="time", p="partition", N="nodes", A="account", J="job-name")
    out = {}
    for line in text.splitlines():
        if line.strip() == "":
            continue
        if line[0] != "#":
            return out
        match = re.match(r"#SBATCH\\s+(-\\S*?)(?:\\s*=\\s*|\\s+|$)(.*)", line)
        if not match:
            continue
        option, value = match.group(1), match.group(2).strip()
        if option.startswith("--"):
            out[option[2:]] = value
        elif option[1:] in names:
            out[names[option[1:]]] = value
        else:
            raise ValueError("unknown: " + option)
    return out
""",
    "request-problems": """
def request_problems(requests, rules):
    out = []
    for name in rules["required"]:
        if name not in requests:
            out.append("missing: " + name)
    for name in rules["refused"]:
        if name in requests:
            out.append("refused: " + name)
    for name in requests:
        if requests[name].count("$") > 0:
            out.append("variable: " + name)
    given = requests.get("nodes", "1")
    if re.fullmatch("[0-9]+", given) and int(given) > rules["most_nodes"]:
        out.append("nodes: " + given + " > " + str(rules["most_nodes"]))
    return out
""",
    "newest-step": """
def newest_step(listing):
    best = 0
    for name in listing:
        number = name[5:]
        if name[:5] != "step_" or not number.isdigit():
            continue
        files = listing[name]
        if all(f in files for f in ("state.json", "weights.safetensors", "optimizer.safetensors")):
            best = max(best, int(number))
    return best
""",
    "chain-jobs": """
def chain_jobs(steps, start, step, save, limit, lead):
    jobs, left = [], steps
    while left:
        clock, taken = start, 0
        while True:
            clock += step
            taken += 1
            left -= 1
            if not left:
                break
            if clock >= limit - lead:
                if clock + save > limit:
                    raise ValueError("the lead is too short")
                break
        jobs.append(taken)
    return jobs
""",
}
