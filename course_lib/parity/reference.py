"""The reference runs: PEFT and transformers in a plain torch loop, and the same run with our code beside it.

The reference uses none of our adapters, Trainer, loss or schedules: PEFT's layers, transformers' loss, torch's AdamW
and schedules. Both sides load the same start, which PEFT draws, and see the same rows of tokens in the same order:
what differs is the code. tests/parity/test_align.py compares them. Left out: mixed precision, evaluation, processes.
"""

import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from course_lib.adapters import load_adapter, lora_layers, save_adapter
from course_lib.adapters.files import CONFIG, PREFIX, WEIGHTS
from course_lib.adapters.peft_settings import DEFAULTS
from course_lib.data import style_corpus
from course_lib.data.corpora import read_corpus
from course_lib.data.text import batches, token_blocks
from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask, refuse_filled, write_json
from course_lib.finetuning.settings import BUNDLED
from course_lib.models.devices import choose_device
from course_lib.models.fingerprint import fingerprint
from course_lib.models.linear_layers import matching_layers
from course_lib.models.pretrained import load
from course_lib.models.twin import twin
from course_lib.options import filled
from course_lib.parity.recipes import AlignSettings
from course_lib.parity.schedules import torch_schedule
from course_lib.seeding import seed_everything
from course_lib.training import StepRecord, Trainer, TrainingConfig
from course_lib.training.memory import peak_memory

Trained: TypeAlias = dict[str, nn.Parameter]  # the trained parameters, by their names in a file


def run(
    settings: AlignSettings,
    output: Path | str,
    *,
    ours: bool = False,
    init: Path | str | None = None,
    device: str = "auto",
) -> Path:
    """Train by `settings` and write everything about the run to a folder. The model's own dropout is off.

    The folder gets loss.jsonl (each line one `StepRecord`), initial/ (the adapter to start from), the gradients/ that
    were asked for, the final adapter in PEFT's layout or model.safetensors, and last of all run.json.

    Args:
        settings: what decides the numbers.
        output: the folder, which must be empty or new.
        ours: train with `load_adapter` (our LoRA layers) and `Trainer` instead of PEFT and the plain loop.
        init: the adapter to start from, in PEFT's layout, whose shape then counts. None: PEFT draws one with the seed.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder.

    Raises:
        CourseError: the folder is not empty, or model and settings do not fit.
    """
    output = _fresh(Path(output))
    device = choose_device(device)
    model, tokenizer = load(settings.model, settings.dtype, device)
    no_dropout(model)
    rows = token_rows(settings, model, tokenizer)
    steps = count_steps(settings, len(rows))
    settings = replace(settings, steps=steps)
    about: dict[str, Any] = {"side": "ours" if ours else "reference", "base": fingerprint(model.parameters())}
    about["data"] = {"rows": len(rows), "tokens": rows.size, "fingerprint": fingerprint([torch.from_numpy(rows)])}
    if settings.target_modules or init:
        settings = write_start(model, settings, output / "initial", init)
    order = list(batches(rows, settings.batch_size, steps * settings.grad_accum_steps, settings.seed))

    # From here on one side's own code. The fingerprint of the start shows that both began alike.
    model, trained = (our_start if ours else reference_start)(model, output / "initial")
    about["start"] = fingerprint(trained[name] for name in sorted(trained))
    seed_everything(settings.seed)  # LoRA dropout's masks
    began = time.perf_counter()
    (train_ours if ours else train_reference)(model, trained, order, settings, output)
    about |= {"seconds": time.perf_counter() - began, "peak_memory": peak_memory(torch.device(device))}
    (save_ours if ours and settings.target_modules else save_reference)(model, output)
    about["versions"] = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    write_json(output / "run.json", about | {"settings": asdict(settings)})
    return output


# --- what both sides share: data and start --------------------------------------------------------------------------


def token_rows(settings: AlignSettings, model: nn.Module, tokenizer: ModelTokenizer) -> np.ndarray:
    """Tokenise the corpus in one piece and cut it into rows; a tail shorter than a row is dropped.

    Args:
        settings: name the corpus and the rows' length.
        model: its number of positions limits that length.
        tokenizer: the model's.

    Returns:
        Token ids (rows, seq_len).

    Raises:
        CourseError: seq_len is more than the model's positions.
    """
    longest = getattr(model.config, "max_position_embeddings", settings.seq_len)
    if settings.seq_len > longest:
        raise CourseError(f"seq_len={settings.seq_len} is more than the {longest} positions of {settings.model}.")
    if settings.dataset == BUNDLED and not Path(BUNDLED).exists():
        documents = [style_corpus()]
    else:
        documents = read_corpus(settings.dataset, settings.split, settings.documents)
    tokenizer.model_max_length = 10**9  # the text is cut into rows below: no warning about its length
    between = "" if Path(settings.dataset).expanduser().exists() else "\n\n"  # a file's articles end with their own
    return token_blocks(between.join(documents), tokenizer, settings.seq_len)


def count_steps(settings: AlignSettings, rows: int) -> int:
    """How many optimiser steps a run has; a last, smaller step is filled with rows of the next pass.

    Args:
        settings: `steps`, or else `epochs`, decide.
        rows: how many rows of tokens there are.

    Returns:
        The number of steps, at least 1.
    """
    micro_batches = settings.epochs * (rows // settings.batch_size)
    return settings.steps or max(1, math.ceil(micro_batches / settings.grad_accum_steps))


def no_dropout(model: nn.Module) -> None:
    """Turn off the model's own dropout (GPT-2's is 0.1): its masks would depend on the order of the code."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def write_start(model: nn.Module, settings: AlignSettings, folder: Path, init: Path | str | None) -> AlignSettings:
    """Write the adapter that both sides start from.

    Args:
        model: the base; it is not changed.
        settings: the adapter's shape and the seed.
        folder: where the adapter goes.
        init: an adapter to copy. None: PEFT draws one.

    Returns:
        The settings, with the shape that the adapter's file gives.

    Raises:
        CourseError: the adapter does not fit the model, or the model lacks a layer that the settings name.
    """
    if init is not None:
        load_adapter(twin(model), init)  # refuses, in one sentence, what does not fit
        return _copy_start(Path(init), settings, folder)
    missing = [target for target in settings.target_modules if not matching_layers(model, [target])]
    if missing:
        raise CourseError(f"{settings.model} has no layer {', '.join(missing)}: choose the recipe of its kind.")
    seed_everything(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    save_reference(get_peft_model(twin(model), config), folder)
    return settings


def _copy_start(init: Path, settings: AlignSettings, folder: Path) -> AlignSettings:
    config = DEFAULTS | json.loads((init / CONFIG).read_text())
    if config["peft_type"] != "LORA":
        raise CourseError(f"{init} holds a {config['peft_type']} adapter: a run starts from a LORA adapter.")
    folder.mkdir(parents=True)
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(init / name, folder / name)
    targets = config["target_modules"]
    targets = (targets,) if isinstance(targets, str) else tuple(sorted(targets))
    own: dict[str, Any] = {"rank": config["r"], "alpha": config["lora_alpha"], "lora_dropout": config["lora_dropout"]}
    return replace(settings, target_modules=targets, **own)


# --- the reference ------------------------------------------------------------------------------------------------


def reference_start(model: nn.Module, start: Path) -> tuple[nn.Module, Trained]:
    """Put PEFT's layers on the model.

    Args:
        model: the base.
        start: the adapter's folder. Where it does not exist, all weights are trained.

    Returns:
        (the model, the trained parameters by their names in a file).
    """
    if start.is_dir():
        model = PeftModel.from_pretrained(model, start, is_trainable=True)
    parameters = ((name.replace(".default", ""), p) for name, p in model.named_parameters() if p.requires_grad)
    return model, dict(parameters)


def train_reference(
    model: Any, trained: Trained, order: Sequence[np.ndarray], settings: AlignSettings, output: Path
) -> None:
    """The loop that everyone writes: forward, backward, clip, step. Each step's record goes to output/loss.jsonl.

    The loss is transformers' own shifted cross-entropy; each of `grad_accum_steps` equal micro-batches counts alike.

    Args:
        model: PEFT's or transformers'.
        trained: the trained parameters, by their names in a file.
        order: micro-batches of token ids (batch, time), in the order of the steps.
        settings: what decides the steps.
        output: the run's folder.

    Raises:
        CourseError: a loss is not finite.
    """
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch_schedule(optimizer, settings)
    optimizer.register_step_pre_hook(gradient_writer(trained, settings.dump_gradients, output / "gradients"))
    model.train()
    steps = filled(settings.steps)
    with (output / "loss.jsonl").open("w") as log:
        for step in tqdm(range(steps), desc="reference", unit="step", leave=False, disable=None):
            began, loss = time.perf_counter(), 0.0
            for batch in order[step * settings.grad_accum_steps : (step + 1) * settings.grad_accum_steps]:
                tokens = torch.as_tensor(batch, device=model.device)  # (batch, time)
                # transformers shifts the labels itself; the loss is a mean over (batch, time - 1) targets.
                part = model(input_ids=tokens, labels=tokens).loss / settings.grad_accum_steps
                part.backward()
                loss += part.item()
            if not math.isfinite(loss):
                raise CourseError(f"The reference's loss at step {step} is {loss}: lower the learning rate.")
            norm = float(nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm))
            lr = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            count = settings.grad_accum_steps * order[0].size
            record = StepRecord(step, loss, lr, norm, time.perf_counter() - began, count)
            log.write(json.dumps(asdict(record)) + "\n")
            if step % 10 == 0 or step == steps - 1:
                tqdm.write(record.line())


def save_reference(model: Any, folder: Path) -> None:
    """Save what PEFT or transformers saves of a model: adapter or weights, and the configuration, without the README.

    Args:
        model: PEFT's or transformers'.
        folder: where the files go; it is made where it is absent.
    """
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        model.save_pretrained(temporary, **options)
        for path in apply_umask(Path(temporary)).iterdir():
            if path.name != "README.md":
                os.replace(path, folder / path.name)


# --- ours -----------------------------------------------------------------------------------------------------------


def our_start(model: nn.Module, start: Path) -> tuple[nn.Module, Trained]:
    """Put our layers on the model.

    Args:
        model: the base.
        start: the adapter's folder. Where it does not exist, all weights are trained.

    Returns:
        (the model, the trained parameters by their names in PEFT's file).
    """
    if not start.is_dir():
        return model, dict(model.named_parameters())
    load_adapter(model, start)
    trained: dict[str, nn.Parameter] = {}
    for path, layer in lora_layers(model):
        trained |= {f"{PREFIX}{path}.lora_A.weight": layer.A, f"{PREFIX}{path}.lora_B.weight": layer.B}
    return model, trained


def train_ours(
    model: nn.Module, trained: Trained, order: Sequence[np.ndarray], settings: AlignSettings, output: Path
) -> None:
    """The same run with our Trainer, its summed loss and its schedules.

    Args:
        model: with our layers on it.
        trained: the trained parameters, by their names in a file.
        order: micro-batches of token ids (batch, time), in the order of the steps.
        settings: what decides the steps.
        output: the run's folder.
    """
    training = TrainingConfig(
        lr=settings.lr,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        grad_accum_steps=settings.grad_accum_steps,
    )
    trainer = Trainer(model, training, log_path=output / "loss.jsonl")
    write = gradient_writer(trained, settings.dump_gradients, output / "gradients")
    trainer.optimizer.register_step_pre_hook(write)
    trainer.train(order)


def save_ours(model: nn.Module, output: Path) -> None:
    """Save our adapter in PEFT's layout.

    Args:
        model: with our layers on it.
        output: the run's folder.
    """
    save_adapter(model, output)


# --- gradients and files --------------------------------------------------------------------------------------------


def gradient_writer(trained: Trained, count: int, folder: Path) -> Callable[..., None]:
    """A hook before each of an optimiser's steps, which writes the first `count` steps' gradients to `folder`.

    They are what the optimiser is given: accumulated, and clipped.

    Args:
        trained: the trained parameters, by their names in the file.
        count: how many steps are written; 0: none.
        folder: where step_000000.safetensors goes.

    Returns:
        The hook, for `register_step_pre_hook`.
    """
    steps = itertools.count()

    def write(*_: object) -> None:
        """A step's gradients to a file of its own, while there are some to write."""
        if (step := next(steps)) < count:
            folder.mkdir(exist_ok=True)
            gradients = {name: p.grad.contiguous() for name, p in trained.items() if p.grad is not None}
            target = folder / f"step_{step:06d}.safetensors"
            save_file(gradients, f"{target}.tmp")
            os.replace(apply_umask(Path(f"{target}.tmp")), target)

    return write


def _fresh(folder: Path) -> Path:
    refuse_filled(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
