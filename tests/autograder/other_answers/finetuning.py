"""Right answers to `finetuning` that differ from the reference: other ways, other names. See `test_other_answers`."""

OTHERS = {
    "schedule": """
def warmup_cosine(i, total, warmup_steps=0, min_lr_ratio=0.1):
    print("step", i)
    if i < min(warmup_steps, total):
        return float((1 + i) / warmup_steps)
    if i >= total:
        return min_lr_ratio
    angle = np.pi * (i - warmup_steps) / (total - warmup_steps)
    return float((1 + np.cos(angle)) * (1 - min_lr_ratio) / 2 + min_lr_ratio)
""",
    "clip": """
def clip_grad_norm(tensors, limit):
    tensors = [t for t in tensors if t.grad is not None]
    flat = np.concatenate([t.grad.astype(float).ravel() for t in tensors] + [np.zeros(0)])
    norm = float(np.sqrt(flat @ flat))
    for t in tensors:
        if norm > limit:
            t.grad = (t.grad.astype(float) / norm * limit).astype(t.grad.dtype)
    return norm
""",
    "adamw": """
def adamw(w, g, m, v, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    first = m + (1 - betas[0]) * (g - m)
    second = v + (1 - betas[1]) * (g * g - v)
    direction = (first / (1 - betas[0] ** t)) / (np.sqrt(second / (1 - betas[1] ** t)) + eps)
    return w - lr * weight_decay * w - lr * direction, first, second
""",
    "train-step": """
def train_step(trainer):
    data, opt = trainer.batch(trainer.step), trainer.optimizer
    opt.zero_grad()
    loss = trainer.model.loss(data["input_ids"], data["labels"])
    value = float(loss.data)
    if value != value or abs(value) == float("inf"):
        raise ValueError("step " + str(trainer.step) + " has the loss " + str(value))
    warm = int(0.1 * trainer.steps) if trainer.steps >= 10 else 1
    loss.backward()
    norm = trainer.clip_gradients(opt.parameters, trainer.max_grad_norm)
    opt.lr = trainer.schedule(trainer.step, trainer.steps, warm) * trainer.peak_lr
    opt.step()
    trainer.step = trainer.step + 1
    return value
""",
    "batch": """
def batch(trainer, number):
    epoch = number // trainer.steps_per_epoch
    first = (number - epoch * trainer.steps_per_epoch) * trainer.batch_size
    rng = np.random.default_rng([trainer.seed, epoch])
    order = rng.permutation(len(trainer.dataset)).tolist()
    chosen = order[first:][: trainer.batch_size]
    return DataCollator().collate([trainer.dataset[i] for i in chosen])
""",
    "train": """
def train(trainer):
    history = []
    for number in range(trainer.step, trainer.steps):
        loss = trainer.train_step()
        print("step", number, "|", "loss", format(loss, ".4f"))
        history += [loss]
    return history
""",
    "evaluate": """
def evaluate(trainer, eval_data):
    sums, examples = [], list(eval_data)
    while examples:
        part, examples = examples[: trainer.batch_size], examples[trainer.batch_size :]
        collated = DataCollator().collate(part)
        n = sum(label != IGNORE for e in part for label in e["labels"][1:])
        with no_grad():
            loss = trainer.model.loss(collated["input_ids"], collated["labels"])
        sums.append((float(loss.data) * n, n))
    return sum(s for s, _ in sums) / sum(n for _, n in sums)
""",
    "save-checkpoint": """
def save_checkpoint(trainer, path):
    path = Path(path)
    arrays = {}
    for name, tensor in trainer.model.named_parameters():
        arrays["model/" + name] = tensor.data
    for slot in trainer.optimizer.memory:
        for i, array in enumerate(trainer.optimizer.memory[slot]):
            arrays["optimizer/%s/%d" % (slot, i)] = array
    state = dict(optimizer=trainer.optimizer.__class__.__name__, step=trainer.step)
    state["optimizer_steps"] = trainer.optimizer.steps
    arrays["state"] = np.array(json.dumps(state))
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        np.savez_compressed(file, **arrays)
    Path(name).rename(path)
""",
    "load-checkpoint": """
def load_checkpoint(trainer, path):
    data = dict(np.load(path, allow_pickle=False))
    if "state" not in data:
        raise ValueError("no state in " + str(path))
    state = json.loads(str(data.pop("state")))
    places = {}
    for name, tensor in trainer.model.named_parameters():
        places["model/" + name] = tensor.data
    for slot, arrays in trainer.optimizer.memory.items():
        for i in range(len(arrays)):
            places["optimizer/" + slot + "/" + str(i)] = arrays[i]
    for name in places:
        if name not in data or data[name].shape != places[name].shape:
            raise ValueError(name + " does not fit")
    for name in data:
        if name not in places:
            raise ValueError(name + " is not here")
    for name, tensor in trainer.model.named_parameters():
        tensor.data = data["model/" + name].copy()
    for slot, arrays in trainer.optimizer.memory.items():
        for i in range(len(arrays)):
            arrays[i] = data["optimizer/" + slot + "/" + str(i)].copy()
    trainer.step = state["step"]
    trainer.optimizer.steps = state["optimizer_steps"]
""",
    "accumulate": """
def accumulate(network, opt, pieces):
    targets = [piece["labels"][:, 1:].reshape(-1) for piece in pieces]
    n = sum(int((t != IGNORE).sum()) for t in targets)
    if n < 1:
        raise ValueError("nothing to learn from")
    opt.zero_grad(set_to_none=True)
    losses = []
    for piece, t in zip(pieces, targets):
        log_p = torch.log_softmax(network(piece["input_ids"])[:, :-1].reshape(len(t), -1), dim=-1)
        kept = t != IGNORE
        loss = -log_p[kept].gather(1, t[kept][:, None]).sum() / n
        loss.backward()
        losses.append(loss.item())
    opt.step()
    return sum(losses)
""",
    "save-and-load-run": """
def save_run(path, model, optimizer, step):
    path, state = Path(path), optimizer.state_dict()
    tensors = {"m:" + n: t.clone().contiguous() for n, t in model.state_dict().items()}
    for i in state["state"]:
        for key, t in state["state"][i].items():
            tensors["o:" + key + ":" + str(i)] = t.clone()
    tensors["rng"] = torch.get_rng_state()
    text = {"step": str(step), "groups": json.dumps(state["param_groups"])}
    temporary = path.with_name("." + path.name + ".new")
    save_file(tensors, temporary, metadata=text)
    temporary.replace(path)


def load_run(path, model, optimizer):
    with safe_open(path, "pt") as file:
        text = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    own = model.state_dict()
    given = {n[2:]: t for n, t in tensors.items() if n.startswith("m:")}
    if set(own) != set(given) or any(own[n].shape != given[n].shape for n in own):
        raise ValueError("another model")
    state = {}
    for name, t in tensors.items():
        if name.startswith("o:"):
            _, key, i = name.split(":")
            state.setdefault(int(i), {})[key] = t
    model.load_state_dict(given)
    optimizer.load_state_dict({"state": state, "param_groups": json.loads(text["groups"])})
    torch.set_rng_state(tensors["rng"])
    return int(text["step"])
""",
}
