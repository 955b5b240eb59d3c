"""A preference run: pairs from records, the reference, the objective and the held-out number, for `finetuning.run`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from course_lib.adapters.files import load_adapter, readable_config, tensor_shapes
from course_lib.adapters.peft_settings import DEFAULTS as LORA_DEFAULTS
from course_lib.adapters.peft_settings import is_relative
from course_lib.adapters.trained_on import in_words
from course_lib.alignment.guard import DivergenceGuard
from course_lib.alignment.objective import PreferenceObjective, evaluate_preferences
from course_lib.alignment.pairs import Pairs, collate_pairs, encode_pairs
from course_lib.alignment.reference import AdapterOff, Cached, FrozenCopy, Reference, cache_reference
from course_lib.alignment.settings import DPOSettings
from course_lib.alignment.sft import record_options
from course_lib.alignment.sources import read_record_parts
from course_lib.data.control_tokens import told_of_control_tokens
from course_lib.data.masking import fitting_length
from course_lib.errors import CourseError
from course_lib.finetuning.export import other_bases, quantization_of_adapter
from course_lib.finetuning.plan import Plan, make_plan
from course_lib.finetuning.record_source import MOST_FITTED, with_progress
from course_lib.finetuning.settings import Settings
from course_lib.finetuning.source import SHARE, Source, pad_id
from course_lib.finetuning.task import Task
from course_lib.options import filled, flag_of
from course_lib.training.distributed import World


class PreferenceTask(Task):
    """The task of learning preferences from pairs, which `read` reads once."""

    unit = "preference loss"

    def __init__(self) -> None:
        self.train, self.held_out, self.template = Pairs(), Pairs(), ""
        self.preference: PreferenceObjective | None = None
        self.notes: list[str] = []  # about the adapter that the run goes on from
        self.metrics: dict[str, float] = {}  # of the newest evaluation

    def read(self, s: Settings, tokenizer: Any, positions: int | None) -> Source:
        """Read records as pairs of token ids.

        Args:
            s: `DPOSettings`.
            tokenizer: the model's.
            positions: how many tokens the model can take; None for any number.

        Returns:
            The pairs to train on, and the held-out pairs.

        Raises:
            CourseError: the records have no rejected responses, or no pair is within the limit.
        """
        options = record_options(s, tokenizer, positions)
        self.template = str(tokenizer.chat_template) if options.template == "chat" else filled(options.template)
        reading, held_out, notes = read_record_parts(s.dataset, options)
        records = reading.records[: s.max_train_samples or None], held_out[: s.max_eval_samples or None]
        if all(record.rejected is None for part in records for record in part):
            raise CourseError(
                f"--dataset {s.dataset} has no rejected responses, so there is nothing to prefer. course sft trains on "
                "answers alone."
            )
        whole, whole_held_out = (
            encode_pairs(with_progress(part), tokenizer, template=filled(options.template)) for part in records
        )
        if not (whole.pairs and whole_held_out.pairs):
            which, said = ("held-out ", whole_held_out.report()) if whole.pairs else ("", whole.report())
            raise CourseError(f"No {which}pair of {s.dataset} can be used: {'; '.join(said)}.")
        seq_len, too_long = self._limit(s, whole, positions), s.too_long or "skip"
        self.train, self.held_out = (each.within(seq_len, too_long) for each in (whole, whole_held_out))
        if not (self.train.pairs and self.held_out.pairs):
            which, said = ("held-out ", self.held_out.report()) if self.train.pairs else ("", self.train.report())
            told = "; ".join(said)
            raise CourseError(f"No {which}pair of {s.dataset} fits into {seq_len} tokens: {told}. Raise --seq-len.")
        notes = [*notes, *_malformed(reading.problems), *self.train.report()]
        notes += told_of_control_tokens(records[0], tokenizer, filled(options.template))
        if self.train.cut:
            notes.append(f"pairs cut to {seq_len} tokens: {self.train.cut:,}")
        rows = [len(pair["input_ids"]) for pair in self.train.pairs]
        what = f"{len(rows):,} pairs in the {options.template} template, prompts computed once"
        return Source(
            what, self.train.pairs, self.held_out.pairs, sum(rows), pad_id(tokenizer), seq_len, tuple(notes),
            row_tokens=max(rows), collate=collate_pairs,
        )  # fmt: skip

    @staticmethod
    def _limit(s: Settings, whole: Pairs, positions: int | None) -> int:
        """The limit for a prompt and one response: the user's, or the length that 99 of 100 pairs stay below."""
        lengths = [len(p["prompt"]) + max(len(p["chosen"]), len(p["rejected"])) for p in whole.pairs]
        share = 1.0 if s.too_long == "error" else SHARE
        return s.seq_len or min(fitting_length(lengths, share), MOST_FITTED, positions or MOST_FITTED)

    def objective(self, model: nn.Module, plan: Plan, folder: Path) -> PreferenceObjective:
        """The preference loss; its reference is the model as it is now, before the first step.

        Args:
            model: the model with its new adapter, which changes nothing yet.
            plan: the plan of the run.
            folder: the folder of the run, which keeps cached values.

        Returns:
            The preference loss with its reference.

        Raises:
            CourseError: cached values do not match the run, or the adapter does not fit the model.
        """
        s = plan.settings
        assert isinstance(s, DPOSettings)
        if s.adapter is not None:
            load_adapter(model, s.adapter)  # before the reference is taken: it is this adapter, frozen
        self.preference = PreferenceObjective(
            self._reference(s, model, folder, plan.source.pad_id),
            filled(s.beta),
            s.label_smoothing,
            s.loss_type,
            s.gamma,
            DivergenceGuard(),
        )
        return self.preference

    def _reference(self, s: DPOSettings, model: nn.Module, folder: Path, pad: int) -> Reference | None:
        if s.loss_type == "simpo":
            return None
        if s.reference == "adapter-off":
            return AdapterOff()
        if s.reference == "copy":
            return FrozenCopy(model)
        for name, pairs in {"reference": self.train, "reference_held_out": self.held_out}.items():
            path = folder / f"{name}.safetensors"
            cache_reference(model, pairs, path, self.template, filled(s.eval_batch_size), pad)
        return Cached()

    def held_out_loss(self, model: nn.Module, plan: Plan, world: World) -> float:
        """The preference loss on held-out pairs. With several processes, each of them computes all of it.

        Args:
            model: the policy.
            plan: of the run.
            world: not used.

        Returns:
            The loss, a mean over the pairs.
        """
        size = filled(plan.settings.eval_batch_size)
        objective = self.preference
        assert objective is not None, "objective() is called first"
        self.metrics = evaluate_preferences(model, objective, self.held_out.pairs, size, plan.source.pad_id)
        return self.metrics["loss"]

    def header(self, plan: Plan) -> list[str]:
        """One line about the loss and the reference."""
        s = plan.settings
        assert isinstance(s, DPOSettings)
        about = {"adapter-off": "the base, with the adapter off", "copy": "a frozen copy", "cached": "cached values"}
        if s.adapter is not None:
            about["copy"] = f"the adapter {s.adapter} as it came, frozen"
        smoothing = f", label smoothing {s.label_smoothing:g}" if s.label_smoothing else ""
        margin = f", gamma {s.gamma:g}" if s.loss_type == "simpo" else ""
        held = about[s.reference] if s.reference else "none"
        return [f"loss: {s.loss_type}, beta {s.beta:g}{smoothing}{margin}; reference: {held}", *self.notes]

    def describe(self, loss: float) -> str:
        """A held-out preference loss, in words."""
        return f"{loss:.4f} (ln 2 = 0.6931 where policy and reference are one)"

    def summary(self, before: float, after: float) -> dict[str, Any]:
        """The losses, and the rewards on held-out pairs after training.

        Args:
            before: the loss before training.
            after: the loss after the last step.

        Returns:
            The entries of summary.json by name.
        """
        rewards = {f"held_out_{name}": value for name, value in self.metrics.items() if name != "loss"}
        return {"held_out_loss_before": before, "held_out_loss_after": after} | rewards


def _malformed(problems: list[str]) -> list[str]:
    return [f"malformed rows left out: {len(problems):,}, such as {problems[0]}"] if problems else []


def plan_dpo(settings: DPOSettings) -> Plan:
    """Plan a run: read the pairs and the shapes of the model, but neither its weights nor any output folder.

    Args:
        settings: the complete settings.

    Returns:
        The plan, for `finetuning.run.train`.

    Raises:
        CourseError: settings, pairs, template and model do not fit together.
    """
    task = PreferenceTask()
    if settings.adapter is not None:
        settings = with_shape_of(settings, settings.adapter)
        task.notes = _about_the_base(settings, Path(filled(settings.adapter)))
    return make_plan(settings, task.read, task)


def _about_the_base(settings: DPOSettings, adapter: Path) -> list[str]:
    """A line where the adapter goes on another base than the one it was trained on: it is allowed, and seldom meant."""
    notes = [
        f"note: {name} was trained on {other}, and goes on here on {settings.model}"
        for name, other in other_bases(settings.model, {str(adapter): adapter}).items()
    ]
    how = quantization_of_adapter(adapter, adapter)
    if how is not None and settings.mode == "lora":
        notes.append(f"note: {adapter} was trained on a base in 4 bits ({in_words(how)}), which --mode qlora keeps")
    return notes


def with_shape_of(settings: DPOSettings, adapter: str) -> DPOSettings:
    """Take rank, alpha and layers from the adapter with which the run continues.

    Args:
        settings: the complete settings.
        adapter: the folder of the adapter.

    Returns:
        The settings. An adapter whose initialisation changed the base (PiSSA) becomes a plain one of twice the rank.

    Raises:
        CourseError: the adapter is not LoRA, or the settings ask for other values.
    """
    config = readable_config(adapter)
    if config["peft_type"] != "LORA":
        raise CourseError(
            f"--adapter {adapter} holds a {config['peft_type']} adapter: a preference run needs LoRA. Name a LoRA "
            "adapter, or leave --adapter out."
        )
    config = LORA_DEFAULTS | config
    names = {name.split(".lora_")[0].split(".")[-1] for name in tensor_shapes(Path(adapter)) if ".lora_" in name}
    found = {
        "rank": config["r"] * (2 if is_relative(config) else 1),
        "alpha": float(config["lora_alpha"]),
        "use_rslora": bool(config["use_rslora"]),
        "lora_dropout": float(config["lora_dropout"]),
        "target_modules": tuple(sorted(names)),
    }
    for name, value in found.items():
        asked = getattr(settings, name)
        if asked not in (value, getattr(DPOSettings, name)):
            raise CourseError(f"{flag_of(name)} {asked}: --adapter {adapter} has {value}. Leave {flag_of(name)} out.")
    return replace(settings, **found)
