"""One training run: settings to model, data and Trainer, and what it leaves in its folder.

    run.json                     every setting, and the held-out loss before training
    log.jsonl, loss.png          each step's loss, learning rate, norm, time and memory; the curve
    checkpoints/                 where --resume goes on, bit for bit; `best` after evaluations
    summary.json                 what came out
    adapter_model.safetensors    the adapter, with adapter_config.json (PEFT's layout); or for mode full
    model.safetensors            the model, with config.json and the tokenizer (Hugging Face's layout)
    base/                        the untrained model, where it was made for this run

Left out: several processes (`course_lib.training.distributed` has them).
"""

import hashlib
import importlib.util
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from course_lib.adapters import adapted_layers, inject_butterfly, inject_lora, save_adapter
from course_lib.adapters.layers import layer_sizes, select_layers
from course_lib.data.shards import len_of
from course_lib.errors import CourseError
from course_lib.evaluation import perplexity
from course_lib.execution.data_commands import load_tokenizer
from course_lib.execution.training_data import BUNDLED, MicroBatches, Source, held_out_loss, largest_id, read_source
from course_lib.execution.training_estimate import BYTES, MemoryEstimate, estimate_memory
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder
from course_lib.models.huggingface import config_settings, save_decoder
from course_lib.models.pretrained import DEFAULT, resolve
from course_lib.training import SCHEDULES, StepRecord, Trainer

MODES = ("full", "lora", "qlora", "butterfly", "butterfly-block")
RUN, LOG, SUMMARY, PLOT, CHECKPOINTS, BASE = (
    "run.json",
    "log.jsonl",
    "summary.json",
    "loss.png",
    "checkpoints",
    "base",
)
HUB_NAMES = {"distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "smollm2-135m"}  # in CONFIGS and on the hub
# Settings that change neither the losses nor what is written: they may differ when a run is resumed.
FREE = {"threads", "device", "checkpoint_every", "keep", "log_every"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run; the command's options have the same names. None: see `defaults`."""

    mode: str = "lora"
    model: str = DEFAULT
    from_scratch: bool = False
    tokenizer: str | None = None
    dataset: str = BUNDLED
    template: str | None = None
    train_on: str = "response"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False
    stages: int | None = None
    block_size: int | None = None
    lr: float | None = None
    schedule: str = "cosine"
    warmup_ratio: float = 0.1
    floor: float | None = None
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 4
    accumulate: int | None = None
    target_tokens: int | None = None
    seq_len: int = 128
    steps: int | None = None
    epochs: float | None = None
    max_train_samples: int = 0
    max_eval_samples: int = 64
    eval_every: int = 0
    log_every: int = 10
    dtype: str = "float32"
    autocast: str | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    checkpoint_every: int | None = None
    keep: int = 2
    seed: int = 0
    threads: int = 0
    device: str = "auto"


def defaults(explicit: dict) -> Settings:
    """The settings of a new run: what was given, the rest by mode.

    LoRA as the course's guide has it: learning rate 3e-4, 500 steps of four micro-batches. Full training and
    butterflies: one pass, 5e-5 and 1e-4. --target-tokens: one pass, and a checkpoint after every step.
    Raises CourseError where settings exclude each other or make no sense.
    """
    given = Settings(**explicit)
    lora, aware = given.mode in ("lora", "qlora"), given.target_tokens is not None
    if given.steps and given.epochs:
        raise CourseError("--steps and --epochs both say how long to train: give one of them.")
    if aware and given.accumulate:
        raise CourseError("--accumulate and --target-tokens both say when to step: give one of them.")
    chosen = {
        "lr": 3e-4 if lora else {"full": 5e-5}.get(given.mode, 1e-4),
        "accumulate": 4 if lora and not aware else 1,
        "stages": 8 if given.mode == "butterfly-block" else 6,
        "checkpoint_every": 1 if aware else 50,
        "steps": 500 if lora and not aware and given.epochs is None else None,
        "floor": {"linear": 0.0, "constant": 1.0}.get(given.schedule, 0.1),
    }
    if chosen["steps"] is None and given.steps is None and given.epochs is None:
        chosen["epochs"] = 1.0
    settings = replace(given, **{key: value for key, value in chosen.items() if getattr(given, key) is None})
    _check(settings)
    return settings


def _check(s: Settings) -> None:
    known = {"mode": MODES, "schedule": tuple(SCHEDULES), "dtype": tuple(BYTES), "autocast": (None, *list(BYTES)[1:])}
    for name, allowed in known.items():
        if getattr(s, name) not in allowed:
            raise CourseError(f"--{name} {getattr(s, name)}: choose from {', '.join(map(str, filter(None, allowed)))}.")
    for name in ("lr", "clip", "batch_size", "accumulate", "steps", "epochs", "target_tokens", "keep"):
        value = getattr(s, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise CourseError(f"--{name.replace('_', '-')} {value}: a number above 0.")
    for name in ("eval_every", "checkpoint_every", "max_train_samples", "max_eval_samples", "threads", "log_every"):
        if getattr(s, name) < 0:
            raise CourseError(f"--{name.replace('_', '-')} {getattr(s, name)}: 0 or more.")
    if s.seq_len < 2:
        raise CourseError(f"--seq-len {s.seq_len}: at least 2, to predict one token from another.")
    if not (0 <= s.warmup_ratio < 1 and 0 <= s.floor <= 1 and s.weight_decay >= 0):
        raise CourseError("--warmup-ratio is a share below 1, --floor one up to 1, --weight-decay not negative.")
    if s.mode == "full" and s.dtype == "float16":
        raise CourseError(
            "--mode full in --dtype float16 underflows: use float32 with --autocast float16, or bfloat16."
        )
    if s.mode == "butterfly" and s.block_size:
        raise CourseError("--block-size is of --mode butterfly-block: butterfly turns the full width.")


# --- the model -------------------------------------------------------------------------------------------------------


def is_scratch(settings: Settings) -> bool:
    """Whether the model begins with random weights: a shape of ours, or --from-scratch for one that the hub has too."""
    if settings.from_scratch and settings.model not in CONFIGS:
        raise CourseError(f"There is no shape {settings.model!r} to train from scratch: {', '.join(CONFIGS)}.")
    known = settings.model in CONFIGS and settings.model not in HUB_NAMES and not Path(settings.model).is_dir()
    return settings.from_scratch or known


def scratch_config(settings: Settings, tokenizer):
    """The named shape with the tokenizer's vocabulary."""
    return replace(CONFIGS[settings.model], vocab_size=len_of(tokenizer))


def shape_of(settings: Settings, tokenizer) -> nn.Module:
    """The transformers model without weights, on the meta device: shapes and names cost no memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if is_scratch(settings):
        config = config_settings(scratch_config(settings, tokenizer))
        config |= {"bos_token_id": None, "eos_token_id": None}
        config = AutoConfig.for_model(config.pop("model_type"), **config)
    else:
        config = AutoConfig.from_pretrained(resolve(settings.model), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, settings.dtype))


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """c_attn for GPT-2, whose one layer makes queries, keys and values; q_proj and v_proj for Llama and its kin."""
    return ("c_attn",) if model.config.model_type == "gpt2" else ("q_proj", "v_proj")


def with_adapter_shape(settings: Settings, model: nn.Module) -> Settings:
    """The settings with targets and, for butterfly-block, the block: 256, or the largest power of two that divides
    every target's input."""
    if settings.mode == "full":
        return settings
    settings = replace(settings, targets=tuple(settings.targets or default_targets(model)))
    if settings.mode == "butterfly-block" and settings.block_size is None:
        widths = [layer_sizes(layer)[1] for layer in select_layers(model, settings.targets).values()]
        settings = replace(settings, block_size=math.gcd(256, *widths))
    return settings


def adapt(model: nn.Module, settings: Settings) -> nn.Module:
    """Freeze the model and put the adapter on, in place; mode full trains everything."""
    s = settings
    if s.mode == "full":
        return model.requires_grad_(True)
    if s.mode in ("lora", "qlora"):
        inject_lora(model, s.targets, s.rank, s.alpha, s.dropout, s.rslora)
    else:
        inject_butterfly(model, s.targets, s.stages, s.block_size)
    return model


def load_base(settings: Settings, folder: Path, tokenizer) -> nn.Module:
    """The base with its weights on the device; one from scratch is made once and kept in the run's folder."""
    name = settings.model
    if is_scratch(settings):
        name = folder / BASE
        if not (name / "config.json").is_file():
            torch.manual_seed(settings.seed)
            files = tokenizer if hasattr(tokenizer, "save_pretrained") else None
            save_decoder(Decoder(scratch_config(settings, tokenizer)), name, files, overwrite=True)
    options = {"device_map": {"": device_of(settings)}}
    if settings.mode == "qlora":
        options["quantization_config"] = _nf4(settings)
    model = _from_pretrained(resolve(name), settings.dtype, **options)
    for layer in model.modules():
        # On processors with AVX512-BF16 an evaluation would repack 4-bit weights for a kernel without a backward pass:
        # training would then go on with gradients that are zero (bitsandbytes 0.50).
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model.eval()


def _from_pretrained(directory: Path, dtype: str, **options) -> nn.Module:
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    options |= {"dtype": getattr(torch, dtype), "use_safetensors": True}
    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **options)


def _nf4(settings: Settings):
    """How bitsandbytes is to hold the linear layers: NF4 with doubly quantised constants (arXiv:2305.14314)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CourseError("--mode qlora needs bitsandbytes until chapter 05 brings our own NF4: pip install '.[gpu]'.")
    from transformers import BitsAndBytesConfig

    computed = getattr(torch, settings.autocast or settings.dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
    )


def device_of(settings: Settings) -> str:
    """The device by name; auto: the GPU where torch sees one."""
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise CourseError("--device cuda: torch sees no GPU here; use --device cpu.")
    return settings.device


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """A run before it begins. adapted: trained parameters by layer. steps: how many micro-batches each takes."""

    settings: Settings
    tokenizer: object
    source: Source
    batches: MicroBatches
    steps: int
    parameters: int
    trainable: int
    adapted: dict[str, int]
    memory: MemoryEstimate

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return round(self.settings.warmup_ratio * self.steps)


def make_plan(settings: Settings) -> Plan:
    """Read the data and the model's shapes: all that can be said of the run without weights. Nothing is written."""
    s = settings
    tokenizer = load_tokenizer(s.tokenizer or (None if is_scratch(s) else s.model))
    model = shape_of(s, tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and s.seq_len > limit:
        raise CourseError(f"--seq-len {s.seq_len}: {s.model} has {limit} positions.")
    s = with_adapter_shape(s, model)
    parameters = sum(p.numel() for p in model.parameters())
    adapt(model, s)
    source = read_source(
        s.dataset,
        tokenizer,
        s.seq_len,
        max_train=s.max_train_samples,
        max_eval=s.max_eval_samples,
        by_document=s.target_tokens is not None,
        template=s.template,
        train_on=s.train_on,
    )
    largest = max(map(largest_id, (source.train, source.held_out)))
    if largest >= model.config.vocab_size:
        raise CourseError(
            f"{s.dataset} has the token {largest}, and {s.model} a vocabulary of {model.config.vocab_size}: it was "
            "tokenised for another model."
        )
    batches, steps = _how_long(s, source)
    adapted = {name: _trained(layer) for name, layer in adapted_layers(model)}
    memory = estimate_memory(
        model,
        tokens=s.batch_size * s.seq_len,
        dtype=s.dtype,
        mode=s.mode,
        autocast=s.autocast is not None,
        checkpoint=s.checkpoint_activations,
    )
    return Plan(s, tokenizer, source, batches, steps, parameters, _trained(model), adapted, memory)


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _how_long(s: Settings, source: Source) -> tuple[MicroBatches, int]:
    """All micro-batches of the run, and into how many steps the Trainer will take them together."""
    batches = MicroBatches(source, s.batch_size, 0, s.seed)
    batches.count = s.steps * s.accumulate if s.steps else math.ceil(s.epochs * batches.per_pass)
    if s.target_tokens is None:
        return batches, math.ceil(batches.count / s.accumulate)
    # Token-aware: how many micro-batches make a step depends on what is in them.
    steps, tokens, number = 0, 0, 0
    while steps < s.steps if s.steps else number < batches.count:
        tokens, number = tokens + batches.tokens(number), number + 1
        if tokens >= s.target_tokens:
            steps, tokens = steps + 1, 0
    batches.count = number
    return batches, steps + (tokens > 0)


# --- the folder ------------------------------------------------------------------------------------------------------


def claim(folder: Path, explicit: dict, resume: bool, force: bool) -> tuple[Settings, dict]:
    """The settings of the run in `folder`, and what its run.json says besides; nothing where it is new.

    A new run takes an empty or absent folder. resume: go on with the settings in run.json; what is given again must
    agree, but for threads, device and how often to save. force: what an earlier run left is removed by `clear`.
    Raises CourseError where the folder is another's. Nothing is written.
    """
    path = folder / RUN
    filled = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file: --output wants a folder.")
    if resume and path.is_file():
        return _resumed(path, explicit)
    if filled and not force:
        what = "a run already: --resume goes on with it, --force replaces it" if path.is_file() else "other files"
        raise CourseError(f"{folder} holds {what}; or choose another --output.")
    return defaults(explicit), {}


def _resumed(path: Path, explicit: dict) -> tuple[Settings, dict]:
    try:
        known = json.loads(path.read_text())
        stored = {key: tuple(value) if isinstance(value, list) else value for key, value in known["settings"].items()}
        settings = Settings(**stored)
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is no record of a run ({error}): start anew with --force.") from error
    for key, value in explicit.items():
        if key not in FREE and value != stored[key]:
            option = key.replace("_", "-")
            raise CourseError(
                f"{path.parent} was begun with --{option} {stored[key]}, not {value}: it cannot go on so."
            )
    return replace(settings, **{key: explicit[key] for key in FREE & explicit.keys()}), known


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, by its names, and nothing else."""
    for name in (RUN, LOG, SUMMARY, PLOT, "adapter_model.safetensors", "adapter_config.json"):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, BASE):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in ("model*.safetensors", "model.safetensors.index.json", "config.json"):
        for path in folder.glob(pattern):
            path.unlink()


def write_json(path: Path, values: dict) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=1))
    os.replace(temporary, path)


# --- the run ---------------------------------------------------------------------------------------------------------


def train(plan: Plan, folder: Path, resume: bool, known: dict, say: Callable[[str], None]) -> dict:
    """Run the plan and leave its results in `folder`; returns the summary. known: what `claim` found in run.json."""
    s, data = plan.settings, data_fingerprint(plan)
    if known.get("data", data) != data:
        raise CourseError(
            f"{s.dataset} is not what it was when {folder} was begun: put it back, or start with --force."
        )
    folder.mkdir(parents=True, exist_ok=True)
    record = {"settings": asdict(s), "data": data, "held_out_before": known.get("held_out_before")}
    write_json(folder / RUN, record)
    model = load_base(s, folder, plan.tokenizer)
    seed_everything(s.seed)  # after loading, so that dropout and adapters begin alike however the base came to be
    adapt(model, s).to(device_of(s))
    before = record["held_out_before"]
    if before is None:
        before = held_out_loss(model, plan.source, s.batch_size)  # a new adapter changes nothing: this is the base
        write_json(folder / RUN, record | {"held_out_before": before})
    say(f"held-out loss before {before:.4f}, perplexity {perplexity(before):.2f}\n")
    records = _trainer(plan, model, folder).train(plan.batches, resume=resume)
    if len(records) != plan.steps:
        raise CourseError(
            f"{folder / LOG} has {len(records)} of {plan.steps} steps: it was changed; start with --force."
        )
    after = records[-1].eval_loss
    after = held_out_loss(model, plan.source, s.batch_size) if after is None else after
    written = save_result(model, plan, folder)
    plot(records, before, after, folder / PLOT, say)
    summary = _summary(plan, records, before, after, folder, written)
    write_json(folder / SUMMARY, summary)
    return summary


def data_fingerprint(plan: Plan) -> str:
    """A hash of the first and the last micro-batch and of how many there are: other data give another."""
    digest = hashlib.sha256(f"{len(plan.batches)} {plan.source.tokens} {len(plan.source.held_out)}".encode())
    for number in (0, len(plan.batches) - 1):
        batch = plan.batches[number]
        digest.update(np.ascontiguousarray(batch["input_ids"] if isinstance(batch, dict) else batch).tobytes())
    return digest.hexdigest()


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _trainer(plan: Plan, model: nn.Module, folder: Path) -> Trainer:
    s = plan.settings
    return Trainer(
        model,
        lr=s.lr,
        warmup=plan.warmup,
        schedule=s.schedule,
        floor=s.floor,
        weight_decay=s.weight_decay,
        clip=s.clip,
        accumulate=s.accumulate,
        tokens_per_step=s.target_tokens,
        autocast=s.autocast,
        checkpoint_activations=s.checkpoint_activations,
        compile=s.compile,
        evaluate=(lambda model: held_out_loss(model, plan.source, s.batch_size)) if s.eval_every else None,
        eval_every=s.eval_every,
        checkpoints=folder / CHECKPOINTS,
        checkpoint_every=s.checkpoint_every,
        keep=s.keep,
        log_every=s.log_every,
        log_path=folder / LOG,
    )


def save_result(model: nn.Module, plan: Plan, folder: Path) -> list[Path]:
    """The adapter in PEFT's layout, or the model with its tokenizer in Hugging Face's; returns the weight files."""
    if plan.settings.mode != "full":
        base = str(folder / BASE) if is_scratch(plan.settings) else plan.settings.model
        return [save_adapter(model, folder, base)]
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
        model.save_pretrained(staging)
        if hasattr(plan.tokenizer, "save_pretrained"):
            plan.tokenizer.save_pretrained(staging)
        else:
            plan.tokenizer.save(Path(staging, "bpe_tokenizer.json"))
        # config.json last: without it a folder is not loaded
        paths = sorted(Path(staging).iterdir(), key=lambda path: path.name == "config.json")
        for path in paths:
            os.replace(path, folder / path.name)
    return [folder / path.name for path in paths if path.suffix == ".safetensors"]


def plot(records: list[StepRecord], before: float, after: float, path: Path, say: Callable[[str], None]) -> None:
    """The training loss of each step and the held-out loss at its evaluations, as a PNG."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        say("No loss plot: matplotlib is not installed (pip install '.[book]').")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")  # no pyplot: no window, whatever the machine's backend
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    axes.plot([r.step + 1 for r in records], [r.loss for r in records], linewidth=1, label="training")
    between = [(r.step + 1, r.eval_loss) for r in records[:-1] if r.eval_loss is not None]
    points = [(0, before), *between, (len(records), after)]
    axes.plot(*zip(*points, strict=True), marker="o", label="held out")
    axes.legend()
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=120)
    os.replace(temporary, path)


def _summary(plan: Plan, records, before: float, after: float, folder: Path, written: list[Path]) -> dict:
    newest = max((folder / CHECKPOINTS).glob("step_??????"), default=None)
    tokens, seconds = sum(r.tokens for r in records), sum(r.seconds for r in records)
    return {
        "mode": plan.settings.mode,
        "model": plan.settings.model,
        "parameters": plan.parameters,
        "trainable": plan.trainable,
        "trainable_percent": 100 * plan.trainable / plan.parameters,
        "steps": len(records),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "held_out_loss_before": before,
        "held_out_loss_after": after,
        "perplexity_before": perplexity(before),
        "perplexity_after": perplexity(after),
        "peak_memory_bytes": max(r.peak_memory for r in records),
        "estimated_memory_bytes": plan.memory.total,
        "result": written[0].name,
        "result_bytes": sum(path.stat().st_size for path in written),
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()) if newest else 0,
    }


def setting_names() -> set[str]:
    """The options that are settings of a run."""
    return {field.name for field in fields(Settings)}
