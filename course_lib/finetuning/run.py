"""One training run: the plan carried out, and its results in a folder (`finetuning.folder` says which files)."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.adapters import save_adapter
from course_lib.data.tokenizers import is_model_tokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask, write_json, write_whole
from course_lib.finetuning.folder import CHECKPOINTS, LOG, PLOT, RUN_FILE, SUMMARY
from course_lib.finetuning.model import adapt, base_name, has_own_base, load_base, make_base
from course_lib.finetuning.plan import Plan, data_fingerprint
from course_lib.finetuning.settings import Settings, shared_settings
from course_lib.finetuning.task import Task
from course_lib.models.decoder import Decoder
from course_lib.models.devices import choose_device
from course_lib.models.folder import move_model
from course_lib.models.huggingface import save_decoder
from course_lib.options import filled
from course_lib.seeding import seed_everything
from course_lib.training import CheckpointConfig, StepRecord, Trainer, TrainingConfig
from course_lib.training.distributed import World, gathered_state, is_sharded
from course_lib.training.memory import current_memory
from course_lib.training.objective import Objective


def train(
    plan: Plan,
    folder: Path,
    resume: bool,
    known: dict,
    say: Callable[[str], None],
    world: World = World(),  # noqa: B008 - frozen
) -> dict:
    """Run the plan and leave its results in a folder. Of several processes the first writes all files.

    Args:
        plan: what to do.
        folder: the run's folder.
        resume: go on from the newest checkpoint, if there is one.
        known: what `claim` found in run.json.
        say: takes each line for the reader.
        world: this process among several.

    Returns:
        The summary, which is empty for all processes but the first.

    Raises:
        CourseError: the data or the log have changed since the run was begun.
    """
    s, before = plan.settings, known.get("held_out_before")
    record = _record(plan, folder, known)
    # A base that cannot be loaded leaves no folder behind, unless it is made for this run and lies in that folder.
    model = None if has_own_base(s) else load_base(s, folder)
    if world.is_main:
        write_json(folder / RUN_FILE, record)
        make_base(s, folder, plan.tokenizer)
    world.barrier()
    device = torch.device(choose_device(s.device))
    model = model or load_base(s, folder)
    say(f"memory with the base {current_memory(device) / 1e6:,.0f} MB")
    seed_everything(s.seed)  # after loading, so that dropout and adapters begin alike however the base came to be
    adapt(model, s).to(device)
    say(f"memory with what is trained on it {current_memory(device) / 1e6:,.0f} MB")
    if world.rank:
        seed_everything(s.seed + world.rank)  # other rows, so other dropout
    objective = plan.task.objective(model, plan, folder)
    if before is None:
        before = held_out_loss(model, plan, world)  # a new adapter changes nothing: it is the base
        _refuse_broken_base(before, s)
        if world.is_main:
            write_json(folder / RUN_FILE, record | {"held_out_before": before})
    say(f"held-out loss before {plan.task.describe(before)}\n")
    records = _train_all_steps(plan, model, folder, resume, world, objective)
    after = records[-1].eval_loss
    after = held_out_loss(model, plan, world) if after is None else after
    if is_sharded(model):
        model = _put_together(model, s, folder, world)
    if not world.is_main:
        return {}
    written = save_result(model, plan, folder)
    plot(records, before, after, folder / PLOT, say, plan.task.unit)
    summary = _summary(plan, records, before, after, folder, written)
    write_json(folder / SUMMARY, summary)
    return summary


def _put_together(model: nn.Module, settings: Settings, folder: Path, world: World) -> nn.Module:
    """On the first process the model whole, so that it can be saved like any other; on the others what they have."""
    state = gathered_state(model, world)
    if not world.is_main:
        return model
    whole = load_base(settings, folder)
    adapt(whole, settings)
    whole.load_state_dict(state)
    return whole


def _record(plan: Plan, folder: Path, known: dict) -> dict:
    """What run.json says of the run; CourseError where the data are not those that it was begun with."""
    s, data = plan.settings, data_fingerprint(plan)
    if known.get("data", data) != data:
        raise CourseError(
            f"{s.dataset} is not what it was when {folder} was begun: put it back, or start with --force."
        )
    stage = {} if s.STAGE == "train" else {"stage": s.STAGE}
    return stage | {"settings": asdict(s), "data": data, "held_out_before": known.get("held_out_before")}


def _refuse_broken_base(before: float, s: Settings) -> None:
    """Raise CourseError where the loss is not a number before any step: then the learning rate is not to blame."""
    if not math.isfinite(before):
        raise CourseError(
            f"The held-out loss of {s.model} is {before} before any training. Its weights hold NaN or infinity, or "
            f"numbers that are too large for {s.dtype}: look at its files, or choose another --dtype."
        )


def _train_all_steps(
    plan: Plan, model: nn.Module, folder: Path, resume: bool, world: World, objective: Objective | None
) -> list[StepRecord]:
    """The record of each step. A run that goes on takes the earlier ones from its log, which has to have them all."""
    records = _trainer(plan, model, folder, world, objective).train(plan.batches, resume=resume)
    if len(records) != plan.steps:
        raise CourseError(
            f"{folder / LOG} has {len(records)} of {plan.steps} steps: it was changed; start with --force."
        )
    return records


def _trainer(plan: Plan, model: nn.Module, folder: Path, world: World, objective: Objective | None) -> Trainer:
    s = plan.settings
    # The settings that the Trainer has too have the same names there.
    config = TrainingConfig(**shared_settings(s, TrainingConfig), warmup_steps=plan.warmup_steps)
    return Trainer(
        model,
        config,
        evaluate=(lambda model: held_out_loss(model, plan, world)) if s.eval_every else None,
        eval_every=s.eval_every,
        checkpoints=CheckpointConfig(folder / CHECKPOINTS, filled(s.checkpoint_every), filled(s.keep)),
        log_every=s.log_every,
        log_path=folder / LOG,
        world=world,
        objective=objective,
    )


def held_out_loss(model: nn.Module, plan: Plan, world: World = World()) -> float:  # noqa: B008 - frozen
    """The loss on the rows that the plan holds out.

    Args:
        model: with its adapter on.
        plan: has the rows.
        world: this process among several, which take turns at the batches.

    Returns:
        The loss: of the next token in nats, or what the plan's task takes in its place.
    """
    return plan.task.held_out_loss(model, plan, world)


def save_result(model: Any, plan: Plan, folder: Path) -> list[Path]:
    """Save the adapter in PEFT's layout, or the model with its tokenizer in Hugging Face's, in the dtype of `--dtype`.

    Args:
        model: after training.
        plan: says which mode it was, and has the tokenizer.
        folder: the run's folder.

    Returns:
        The files of weights.
    """
    if plan.settings.mode != "full":
        return [save_adapter(model, folder, base_name(plan.settings, folder))]
    if isinstance(model, Decoder):
        files = plan.tokenizer if is_model_tokenizer(plan.tokenizer) else None
        if files is None:
            plan.tokenizer.save(folder / "bpe_tokenizer.json")
        return [save_decoder(model, folder, files, overwrite=True, stage=plan.settings.STAGE)]
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
        model.save_pretrained(staging)
        if is_model_tokenizer(plan.tokenizer):
            plan.tokenizer.save_pretrained(staging)
        else:
            plan.tokenizer.save(Path(staging, "bpe_tokenizer.json"))
        written = sorted(path.name for path in apply_umask(Path(staging)).glob("*.safetensors"))
        move_model(Path(staging), folder)
    return [folder / name for name in written]


def plot(
    records: list[StepRecord],
    before: float,
    after: float,
    path: Path,
    say: Callable[[str], None],
    unit: str = Task.unit,
) -> None:
    """Plot the training loss of each step and the held-out loss at its evaluations, as a PNG.

    Args:
        records: one for each step.
        before: the held-out loss before training, drawn at step 0.
        after: the held-out loss after the last step.
        path: the picture's file.
        say: is told where matplotlib is not installed; nothing is drawn then.
        unit: what the loss is measured in.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        say("No loss plot: matplotlib is not installed (pip install '.[book]').")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")  # no pyplot: no window, whatever the machine's backend
    axes = figure.add_subplot(xlabel="step", ylabel=f"loss ({unit})")
    axes.plot([r.step + 1 for r in records], [r.loss for r in records], linewidth=1, label="training")
    between = [(r.step + 1, r.eval_loss) for r in records[:-1] if r.eval_loss is not None]
    points = [(0, before), *between, (len(records), after)]
    axes.plot(*zip(*points, strict=True), marker="o", label="held out")
    axes.legend()
    image = BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


def _summary(
    plan: Plan, records: list[StepRecord], before: float, after: float, folder: Path, written: list[Path]
) -> dict:
    newest = max((folder / CHECKPOINTS).glob("step_??????"), default=None)
    tokens, seconds = sum(r.tokens for r in records), sum(r.seconds for r in records)
    return {
        "mode": plan.settings.mode,
        "model": plan.settings.model,
        "parameters": plan.parameters,
        "trainable": plan.trainable,
        "trainable_percent": 100 * plan.trainable / plan.parameters,
        "steps": len(records),
        "skipped_steps": sum(r.skipped for r in records),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        **plan.task.summary(before, after),
        "peak_memory_bytes": max((r.peak_memory for r in records if r.peak_memory is not None), default=None),
        "estimated_memory_bytes": plan.memory.total,
        "result": written[0].name,
        "result_bytes": sum(path.stat().st_size for path in written),
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()) if newest else 0,
    }
