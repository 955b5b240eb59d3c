"""Plausible wrong answers to `finetuning`: one for each requirement that its text states. See `test_wrong_answers`."""

_FINITE = "    if not np.isfinite(loss.item()):"
_CLIP = "    self.clip_gradients(self.optimizer.parameters, self.max_grad_norm)\n"
_LR = "    self.optimizer.lr = self.peak_lr * self.schedule(\n        self.step, self.steps, warmup_steps\n    )\n"

STEP = {
    "schedule": {
        "no step at a rate of zero": ("(step + 1) / warmup_steps", "step / warmup_steps"),
        "the warm-up ends at the peak": ("(step + 1) / warmup_steps", "(step + 1) / (warmup_steps + 1)"),
        "right after it the factor is 1": ("if step < warmup_steps:", "if step <= warmup_steps:"),
        "half a cosine": ("math.pi * progress", "2 * math.pi * progress"),
        "and not a straight line": ("0.5 * (\n        1 + math.cos(math.pi * progress)\n    )", "(1 - progress)"),
        "down to min_lr_ratio": ("return min_lr_ratio + (1 - min_lr_ratio) *", "return"),
        "from the peak": ("return min_lr_ratio + (1 - min_lr_ratio) *", "return min_lr_ratio +"),
        "over what is left": ("(step - warmup_steps) / (steps - warmup_steps)", "step / steps"),
        "it does not come up again": ("    if step >= steps:\n        return min_lr_ratio\n", ""),
        "it does not fall to zero": ("        return min_lr_ratio\n", "        return 0.0\n"),
        "a run that is all warm-up": ("if step >= steps:", "if step > steps:"),
    },
    "clip": {
        "the joint norm": (
            "    if norm > max_norm:\n        for p in parameters:\n            if p.grad is not None:\n",
            "    if norm > max_norm:\n        for p in parameters:\n            if p.grad is not None:\n"
            "                norm = math.sqrt((p.grad.astype(float) ** 2).sum())\n",
        ),
        "as one long vector": (
            "math.sqrt(\n        sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients)\n    )",
            "sum(math.sqrt((g.astype(np.float64) ** 2).sum()) for g in gradients)",
        ),
        "of squares": ("** 2).sum()", "** 2).mean()"),
        "those below the limit stay": ("    if norm > max_norm:\n", "    if norm > 0:\n"),
        "one without a gradient is skipped": (" if p.grad is not None]", "]"),
        "and stays without one": (
            "            if p.grad is not None:\n                p.grad =",
            "            if p.grad is None:\n                p.grad = np.zeros(1, np.float32)\n"
            "            else:\n                p.grad =",
        ),
        "gradients keep their dtype": (
            "p.grad * p.grad.dtype.type(max_norm / norm)",
            "p.grad * np.float64(max_norm / norm)",
        ),
        "whichever it is": (
            "p.grad * p.grad.dtype.type(max_norm / norm)",
            "(p.grad * (max_norm / norm)).astype(np.float32)",
        ),
        "squares are added up in float64": ("g.astype(np.float64) ** 2", "g**2"),
        "the norm before": ("    return norm", "    return min(norm, max_norm)"),
        "as a float": ("    return norm", "    return np.float32(norm)"),
        "zeros do no harm": ("    if norm > max_norm:\n", "    if max_norm / norm < 1:\n"),
        "each is clipped to the norm, not to a value": (
            "p.grad * p.grad.dtype.type(max_norm / norm)",
            "np.clip(p.grad, -max_norm, max_norm)",
        ),
    },
    "adamw": {
        "decay acts on the weight": ("value * (1 - lr * weight_decay)", "value"),
        "and not on the gradient": [
            ("    beta1, beta2 = betas", "    beta1, beta2 = betas\n    gradient = gradient + weight_decay * value"),
            ("value * (1 - lr * weight_decay)", "value"),
        ],
        "with the learning rate": ("(1 - lr * weight_decay)", "(1 - weight_decay)"),
        "the first mean is corrected": ("m / (1 - beta1**step)", "m"),
        "and the second": ("v / (1 - beta2**step)", "v"),
        "for this step": ("(1 - beta1**step), v / (1 - beta2**step)", "(1 - beta1), v / (1 - beta2)"),
        "steps count from 1": ("beta1**step", "beta1 ** (step + 1)"),
        "uncorrected means are returned": ("return value, m, v", "return value, m_hat, v_hat"),
        "eps is not under the root": ("(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)"),
        "the gradient is squared": ("gradient**2", "np.abs(gradient)"),
        "betas are those given": ("beta1, beta2 = betas", "beta1, beta2 = 0.9, 0.999"),
        "m stays as it is": ("m = beta1 * m + (1 - beta1) * gradient", "m *= beta1\n    m += (1 - beta1) * gradient"),
        "v, too": ("v = beta2 * v + (1 - beta2) * gradient**2", "v *= beta2\n    v += (1 - beta2) * gradient**2"),
        "the value, too": (
            "    value = value * (1 - lr * weight_decay) - lr",
            "    value *= 1 - lr * weight_decay\n    value -= lr",
        ),
        "in this order": ("return value, m, v", "return m, v, value"),
    },
    "train-step": {
        "the learning rate is set": (_LR, ""),
        "before the update": [(_LR, ""), ("    self.step += 1\n", _LR + "    self.step += 1\n")],
        "of this step": ("self.step, self.steps, warmup_steps", "self.step + 1, self.steps, warmup_steps"),
        "times the peak": ("self.peak_lr * self.schedule", "self.optimizer.lr * self.schedule"),
        "a tenth is warm-up": ("self.steps // 10", "self.steps // 20"),
        "rounded down": ("self.steps // 10", "-(-self.steps // 10)"),
        "at least one step": ("max(1, self.steps // 10)", "self.steps // 10"),
        "old gradients are forgotten": ("    self.optimizer.zero_grad()\n", ""),
        "the batch of this step": ("self.batch(self.step)", "self.batch(self.step + 1)"),
        "a loss that is not finite is refused": (_FINITE, "    if False:"),
        "infinity is none, either": (_FINITE, "    if np.isnan(loss.item()):"),
        "by a ValueError": ("raise ValueError", "raise FloatingPointError"),
        "with the step": ("at step {self.step} is", "is"),
        "before anything changes": [
            (_FINITE + '\n        raise ValueError(f"the loss at step {self.step} is {loss.item()}")\n', ""),
            (
                "    return loss.item()",
                _FINITE + '\n        raise ValueError(f"the loss at step {self.step - 1} is {loss.item()}")\n'
                "    return loss.item()",
            ),
        ],
        "gradients are clipped": (_CLIP, ""),
        "to max_grad_norm": ("self.max_grad_norm", "1.0"),
        "before the update, not after it": [(_CLIP, ""), ("    self.step += 1\n", _CLIP + "    self.step += 1\n")],
        "all together": (
            _CLIP,
            "    for p in self.optimizer.parameters:\n        self.clip_gradients([p], self.max_grad_norm)\n",
        ),
        "there is an update": ("    self.optimizer.step()\n", ""),
        "the step is counted": ("    self.step += 1\n", ""),
        "the loss is a float": ("return loss.item()", "return loss"),
        "the loss of this step": (
            "    return loss.item()",
            "    return self.model.loss(batch['input_ids'], batch['labels']).item()",
        ),
    },
}

RUN = {
    "batch": {
        "each pass is shuffled anew": ("default_rng([self.seed, epoch])", "default_rng([self.seed, 0])"),
        "the seed decides": ("default_rng([self.seed, epoch])", "default_rng([0, epoch])"),
        "as the text says": ("default_rng([self.seed, epoch])", "default_rng(self.seed + epoch)"),
        "asked in any order": (
            "np.random.default_rng([self.seed, epoch])",
            "self.__dict__.setdefault('rng', np.random.default_rng(self.seed))",
        ),
        "the next batch_size examples": (
            "order[place * self.batch_size : (place + 1) * self.batch_size]",
            "order[place :: self.steps_per_epoch]",
        ),
        "the last batch may be smaller": (
            "    return DataCollator",
            "    chosen = np.resize(chosen, self.batch_size)\n    return DataCollator",
        ),
        "nothing is dropped": (
            "(place + 1) * self.batch_size]",
            "(place + 1) * self.batch_size][: self.batch_size - (place + 1 == self.steps_per_epoch)]",
        ),
        "it is shuffled": (
            "np.random.default_rng([self.seed, epoch]).permutation(\n        len(self.dataset)\n    )",
            "np.arange(len(self.dataset))",
        ),
        "a step's place is that in its pass": (
            "divmod(step, self.steps_per_epoch)",
            "step // self.steps_per_epoch, step",
        ),
        "padded with the collator": (
            "DataCollator().collate([self.dataset[int(i)] for i in chosen])",
            "DataCollator(pad_token_id=1).collate(["
            "self.dataset[int(i)] | {'labels': self.dataset[int(i)]['input_ids']} "
            "for i in chosen])",
        ),
    },
    "train": {
        "from the current step": ("    losses = []", "    losses, self.step = [], 0"),
        "to the last": ("self.step < self.steps", "self.step < self.steps - 1"),
        "and no further": ("self.step < self.steps", "self.step <= self.steps"),
        "a given number of steps is not right": ("while self.step < self.steps:", "for _ in range(self.steps):"),
        "train_step counts": (
            "        losses.append(self.train_step())",
            "        losses.append(self.train_step())\n        self.step += 1",
        ),
        "the losses are returned": ("return losses", "return losses[-1:]"),
        "in a list": ("return losses", "return np.array(losses)"),
        "numbers from 0 are printed": ("step {self.step - 1} |", "step {self.step} |"),
        "four decimals": (":.4f", ":.3f"),
        "one line for each step": (
            '        print(f"step {self.step - 1} | loss {losses[-1]:.4f}")\n    return',
            '    print(f"step {self.step - 1} | loss {losses[-1] if losses else 0:.4f}")\n    return',
        ),
    },
    "evaluate": {
        "batches are weighed": [("\n                * tokens", ""), ("count += tokens", "count += 1")],
        "not by their examples": ('tokens = int((batch["labels"][:, 1:] != IGNORE).sum())', "tokens = stop - start"),
        "the label at position 0 does not count": ('batch["labels"][:, 1:] != IGNORE', 'batch["labels"] != IGNORE'),
        "masked labels do not count": ('(batch["labels"][:, 1:] != IGNORE).sum()', 'batch["labels"][:, 1:].size'),
        "all the examples": (
            "range(0, len(eval_data), self.batch_size)",
            "range(0, len(eval_data) - self.batch_size + 1, self.batch_size)",
        ),
        "batch_size at a time": (
            "range(0, len(eval_data), self.batch_size):\n"
            "            stop = min(start + self.batch_size, len(eval_data))",
            "range(len(eval_data)):\n            stop = start + 1",
        ),
        "and not all at once": (
            "range(0, len(eval_data), self.batch_size):\n"
            "            stop = min(start + self.batch_size, len(eval_data))",
            "range(1):\n            stop = len(eval_data)",
        ),
        "in order": (
            "[eval_data[i] for i in range(start, stop)]",
            "[eval_data[len(eval_data) - 1 - i] for i in range(start, stop)]",
        ),
        "nothing is remembered": ("with no_grad():", "if True:"),
        "nothing changes": ("    return total / count", "    self.optimizer.zero_grad()\n    return total / count"),
        "a float": ("return total / count", "return np.array(total / count)"),
        "the mean": ("return total / count", "return total"),
    },
}

CHECKPOINTS = {
    "save-checkpoint": {
        "the weights": (
            "np.array(json.dumps(state)), **arrays)",
            "np.array(json.dumps(state)), **{n: a for n, a in arrays.items() if n != min(arrays)})",
        ),
        "under their names": ('f"model/{name}"', 'f"{name}"'),
        "the optimiser's memory": (
            '            f"optimizer/{slot}/{i}": value for i, value in enumerate(memory)\n',
            "",
        ),
        "by number from 0": ("enumerate(memory)", "enumerate(memory, 1)"),
        "the position": ('        "step": self.step,\n', ""),
        "the optimiser's own": ('"optimizer_steps": self.optimizer.steps', '"optimizer_steps": 0'),
        "the optimiser's class": ("type(self.optimizer).__name__", "str(type(self.optimizer))"),
        "the state is JSON": ("np.array(json.dumps(state))", "np.array(state, dtype=object)"),
        "the file has exactly this name": [
            ('with temporary.open("wb") as file:\n        np.savez(file,', "if True:\n        np.savez(path,"),
            ("    os.replace(temporary, path)", ""),
        ],
        "a temporary name first": [
            ('temporary = Path(f"{path}.{os.getpid()}.tmp")', "temporary = Path(path)"),
            ("    os.replace(temporary, path)", ""),
        ],
        "in the same folder": ('Path(f"{path}.{os.getpid()}.tmp")', 'Path(tempfile.mkdtemp()) / "new"'),
        "renamed when it is whole": [
            (
                '    with temporary.open("wb") as file:\n',
                '    temporary.touch()\n    os.replace(temporary, path)\n    with Path(path).open("wb") as file:\n',
            ),
            ("**arrays)\n    os.replace(temporary, path)", "**arrays)"),
        ],
        "by a rename, not a copy": (
            "os.replace(temporary, path)",
            "__import__('shutil').copy(temporary, path)\n    temporary.unlink()",
        ),
        "the temporary file is gone": (
            "os.replace(temporary, path)",
            "os.replace(temporary, path)\n    temporary.touch()",
        ),
        "arrays keep their dtype": ('f"model/{name}": p.data for', 'f"model/{name}": p.data.astype(np.float64) for'),
    },
    "load-checkpoint": {
        "the weights": ('        parameter.data = arrays[f"model/{name}"]', "        pass"),
        "into the Tensors that are there": (
            'parameter.data = arrays[f"model/{name}"]',
            'parent = self.model\n        *path, last = name.split(".")\n        for piece in path:\n'
            "            parent = parent[int(piece)] if piece.isdigit() else getattr(parent, piece)\n"
            '        setattr(parent, last, Tensor(arrays[f"model/{name}"], requires_grad=True))',
        ),
        "the memory": ("        memory[:] = [", "        _ = ["),
        "the optimiser's steps": (
            'self.step, self.optimizer.steps = state["step"], state["optimizer_steps"]',
            'self.step = state["step"]',
        ),
        "the step": (
            'self.step, self.optimizer.steps = state["step"], state["optimizer_steps"]',
            'self.optimizer.steps = state["optimizer_steps"]',
        ),
        "another shape is refused": (
            "        ours, theirs = (\n            np.shape(side[name]) if name in side",
            "        ours, theirs = (\n            True if name in side",
        ),
        "an array too many, too": ("expected.keys() | arrays.keys()", "expected.keys()"),
        "a missing one, too": ("expected.keys() | arrays.keys()", "arrays.keys()"),
        "with its name": ("{name} is {theirs} there", "something is {theirs} there"),
        "by a ValueError": (
            'raise ValueError(\n                f"{path} does not fit',
            'raise KeyError(\n                f"{path} does not fit',
        ),
        "a file without a state, too": (
            '    if "state" not in arrays:\n        raise ValueError(\n'
            '            f"{path} has no state: it is no checkpoint of this trainer"\n        )\n',
            "",
        ),
        "before anything changes": (
            "    for name in sorted(expected",
            "    for name, parameter in self.model.named_parameters():\n"
            '        if f"model/{name}" in arrays:\n'
            '            parameter.data = arrays[f"model/{name}"]\n    for name in sorted(expected',
        ),
        "the moments, too": (
            "    for name in sorted(expected.keys() | arrays.keys()):",
            "    for name in sorted(n for n in expected.keys() | arrays.keys() if n.startswith('model/')):",
        ),
    },
}

PYTORCH = {
    "accumulate": {
        "every target counts the same": (
            "(loss / count).backward()",
            "(loss / max(1, int((labels != IGNORE).sum())) / len(micro_batches)).backward()",
        ),
        "the loss, too": ("return total / count", "return total / len(micro_batches)"),
        "the label at position 0 is not a target": ('batch["labels"][:, 1:] != IGNORE', 'batch["labels"] != IGNORE'),
        "each position predicts the next label": (
            'model(batch["input_ids"])[:, :-1].flatten(0, 1)',
            'model(batch["input_ids"])[:, 1:].flatten(0, 1)',
        ),
        "masked labels do not count": ('(batch["labels"][:, 1:] != IGNORE).sum()', 'batch["labels"][:, 1:].numel()'),
        "one graph at a time": (
            "        (loss / count).backward()\n        total += loss.item()\n    optimizer.step()",
            "        total = total + loss\n    (total / count).backward()\n    total = total.item()\n"
            "    optimizer.step()",
        ),
        "old gradients do not count": ("    optimizer.zero_grad()\n", ""),
        "those of the pieces do": (
            "        (loss / count).backward()",
            "        optimizer.zero_grad()\n        (loss / count).backward()",
        ),
        "one step": (
            "        total += loss.item()\n    optimizer.step()",
            "        total += loss.item()\n        optimizer.step()",
        ),
        "a piece without targets is possible": (
            'reduction="sum"\n        )',
            'reduction="mean"\n        ) * (labels != IGNORE).sum()',
        ),
        "where there is no target at all it is refused": ("    if count == 0:", "    if False:"),
        "by a ValueError": ("raise ValueError", "raise ZeroDivisionError"),
        "and everything stays": ("    count = sum(", "    optimizer.zero_grad()\n    count = sum("),
        "the loss is a float": ("return total / count", "return torch.tensor(total / count)"),
    },
    "save-and-load-run": {
        "buffers, too": (
            "model.state_dict().items()\n    }\n    for number",
            "model.named_parameters()\n    }\n    for number",
        ),
        "the optimiser's moments": (
            "        tensors |= {\n"
            '            f"optimizer/{number}/{key}": tensor for key, tensor in moments.items()\n'
            "        }",
            "        pass",
        ),
        "its settings": (
            '{"state": moments, "param_groups": run["param_groups"]}',
            '{"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}',
        ),
        "where the random numbers stand": ("    torch.set_rng_state(random_state)\n", ""),
        "when it was saved": (
            'tensors["random"] = torch.get_rng_state()',
            'torch.manual_seed(0)\n    tensors["random"] = torch.get_rng_state()',
        ),
        "saving disturbs nothing": (
            "    saved = optimizer.state_dict()",
            "    model.eval()\n    torch.rand(1)\n    saved = optimizer.state_dict()",
        ),
        "the number of steps": ('return run["step"]', "return 0"),
        "is an int": ('return run["step"]', 'return str(run["step"])'),
        "numbers of parameters are ints": ("moments.setdefault(int(number), {})", "moments.setdefault(number, {})"),
        "tensors that share memory": ("tensor.detach().clone() for name", "tensor for name"),
        "the file has exactly this name": (
            "os.replace(temporary, path)",
            "os.replace(temporary, str(path) + '.safetensors')",
        ),
        "a temporary name first": [
            ('temporary = f"{path}.{os.getpid()}.tmp"', "temporary = path"),
            ("    os.replace(temporary, path)\n", ""),
        ],
        "in the same folder": (
            'temporary = f"{path}.{os.getpid()}.tmp"',
            'temporary = os.path.join(tempfile.mkdtemp(), "new")',
        ),
        "no pickle": [
            ('save_file(tensors, temporary, metadata={"run": run})', "torch.save((tensors, run), temporary)"),
            ('    with safe_open(path, "pt") as file:\n        run = json.loads(file.metadata()["run"])\n', ""),
            ("tensors = load_file(path)", "tensors, run = torch.load(path)\n    run = json.loads(run)"),
        ],
        "another model's file is refused": ("    if there != here:", "    if False:"),
        "where names differ, too": (
            "    if there != here:",
            "    if any(there[n] != here.get(n, there[n]) for n in there):",
        ),
        "where shapes differ, too": ("    if there != here:", "    if there.keys() != here.keys():"),
        "by a ValueError": ("raise ValueError(", "raise RuntimeError("),
        "before anything is changed": (
            "    there, here = (",
            "    model.load_state_dict({n: t for n, t in weights.items() if n in model.state_dict() and t.shape "
            "== model.state_dict()[n].shape}, strict=False)\n    there, here = (",
        ),
        "the model itself is loaded": (
            "    model.load_state_dict(weights)\n",
            "    __import__('copy').deepcopy(model).load_state_dict(weights)\n",
        ),
    },
}

WRONG = STEP | RUN | CHECKPOINTS | PYTORCH
