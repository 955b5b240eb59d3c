"""The work of each stage of the pipeline: what it reads, what it does, and what it writes.

The order is tokenizer → pretrain, baseline → sft → pairs → dpo → answers → verifier → evaluate. The training stages are
runs of `course pretrain`, `course sft` and `course dpo`, and those commands can continue a run in a stage's folder.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import load_file

from course_lib.alignment.pipeline.answers import (
    judged,
    judged_rows,
    prompt_of,
    share_right,
    write_answers,
    write_rows,
)
from course_lib.alignment.pipeline.settings import KINDS, PipelineSettings
from course_lib.alignment.preference_run import plan_dpo
from course_lib.alignment.pretrain import plan_pretrain, tokenizer_of
from course_lib.alignment.reranking import Samples
from course_lib.alignment.sampled_pairs import make_pairs
from course_lib.alignment.sft import plan_sft
from course_lib.alignment.verifier import calibrated, split_by_problem, train_verifier
from course_lib.data.generators.pocket_problems import pocket_problems
from course_lib.data.judged import read_judged
from course_lib.data.mixture import DataConfig
from course_lib.errors import CourseError
from course_lib.files import write_json
from course_lib.finetuning.folder import CHECKPOINTS, RUN_FILE, claim
from course_lib.finetuning.plan import Plan
from course_lib.finetuning.run import train
from course_lib.models.decoder import Decoder
from course_lib.models.devices import choose_device
from course_lib.models.huggingface import load_decoder
from course_lib.models.pretrained import load_tokenizer
from course_lib.models.verifier import Verifier
from course_lib.seeding import seed_everything
from course_lib.training import CheckpointConfig

SOLUTIONS = "solutions.jsonl"  # the worked solutions that the verifier reads
MODEL = "model"  # the folder of a run and its model, inside the stage's folder
PLANS: dict[str, Callable[[Any], Plan]] = {
    "pretrain": plan_pretrain,
    "baseline": plan_pretrain,
    "sft": plan_sft,
    "dpo": plan_dpo,
}


@dataclass(frozen=True)
class Run:
    """A pipeline at work.

    Attributes:
        settings: the settings of the pipeline.
        folder: the folder of the pipeline, in which each stage has a folder.
        say: the function that shows a line to the reader.
    """

    settings: PipelineSettings
    folder: Path
    say: Callable[[str], None] = print

    def model_folder(self, stage: str) -> Path:
        """The folder of a stage's model."""
        return self.folder / stage / MODEL

    def tokenizer(self) -> Any:
        """The pipeline's tokenizer."""
        return load_tokenizer(self.folder / "tokenizer")

    def decoder(self, stage: str) -> Decoder:
        """The model that a stage has trained, on the pipeline's device."""
        return load_decoder(self.model_folder(stage), device=choose_device(self.settings.device))

    def training_problems(self, stage: str) -> list[dict]:
        """The training problems of "sft", "pairs" or "verifier". No problem is in two of these stages."""
        sizes = {name: getattr(self.settings.problems, name) for name in ("sft", "pairs", "verifier")}
        drawn = pocket_problems("train", sum(sizes.values()), self.settings.seed)
        first = sum(size for name, size in sizes.items() if list(sizes).index(name) < list(sizes).index(stage))
        return drawn[first : first + sizes[stage]]


def learn_the_tokenizer(run: Run, folder: Path) -> dict[str, Any]:
    """Learn the tokenizer's merges from the mix of corpora.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        What the report says about the stage.
    """
    s = run.settings
    tokenizer = tokenizer_of(DataConfig(**s.data_config), s.vocab_size, s.seed)
    tokenizer.save_pretrained(folder)
    return {"vocab_size": len(tokenizer)}


def pretrain(run: Run, folder: Path) -> dict[str, Any]:
    """Train the decoder from random weights.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        The summary of the run.
    """
    return _train(run, "pretrain", folder, _pretraining(run))


def train_baseline(run: Run, folder: Path) -> dict[str, Any]:
    """Train a GPT-2 of the same size on the same tokens.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        The summary of the run.
    """
    given = run.settings.stages["pretrain"] | run.settings.stages["baseline"]
    return _train(run, "baseline", folder, _pretraining(run) | given | {"family": "gpt2"})


def _pretraining(run: Run) -> dict[str, Any]:
    """The settings of pretraining that the pipeline itself decides."""
    s = run.settings
    config = DataConfig(**s.data_config)
    return {
        "model": s.model,
        "tokenizer": str(run.folder / "tokenizer"),
        "dataset_mix": tuple(f"{name}={share}" for name, share in config.dataset_mix.items()),
        "tokens_target": config.tokens_target,
        "max_epochs": float(config.max_epochs),
        "allow_more_epochs": config.allow_more_epochs,
        "in_order": not config.shuffle,
    }


def fine_tune(run: Run, folder: Path) -> dict[str, Any]:
    """Teach the base to answer, from demonstrations by two writers, of whom only one shows the work.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        The summary of the run.
    """
    rng, share = Random(f"writers {run.settings.seed}"), run.settings.problems.short_share
    rows = [
        {"instruction": item["question"], "input": "", "output": item["short" if rng.random() < share else "solution"]}
        for item in run.training_problems("sft")
    ]
    dataset = write_rows(folder / "demonstrations.jsonl", rows)
    return _train(run, "sft", folder, {"model": str(run.model_folder("pretrain")), "dataset": str(dataset)})


def sample_pairs(run: Run, folder: Path) -> dict[str, Any]:
    """Sample the fine-tuned model on training problems, and pair its right answers with its wrong ones.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        How many pairs there are, the share of samples that were right, and why problems gave no pair.

    Raises:
        CourseError: no problem has a right and a wrong answer among its samples.
    """
    p, items = run.settings.problems, run.training_problems("pairs")
    samples = sample(run, "sft", items, p.pair_samples, seed=1)
    made = make_pairs(samples, [item["kind"] for item in items], p.pairs_each, run.settings.seed)
    if not made.rows:
        raise CourseError(
            f"Of {len(items):,} problems none has a right and a wrong answer among its samples, so there are no pairs. "
            "Sample more answers (pair_samples), or train sft for longer."
        )
    write_rows(folder / "pairs.jsonl", made.rows)
    without = {reason: len(names) for reason, names in made.without.items()}
    return {"pairs": len(made.rows), "problems": len(items), "samples_right": made.right, "without": without}


def prefer(run: Run, folder: Path) -> dict[str, Any]:
    """Train the fine-tuned model to prefer right answers to wrong ones.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        The summary of the run.
    """
    pairs = run.folder / "pairs" / "pairs.jsonl"
    explicit = {"model": str(run.model_folder("sft")), "dataset": str(pairs), "reference": "cached"}
    return _train(run, "dpo", folder, explicit)


def write_judged(run: Run, folder: Path) -> dict[str, Any]:
    """Write what the verifier learns from: sampled answers to new training problems, and solutions of earlier ones.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        How many problems and solutions there are, and the share of samples that were right.
    """
    p, items = run.settings.problems, run.training_problems("verifier")
    samples = sample(run, "dpo", items, p.verifier_samples, seed=2)
    write_rows(folder / "answers.jsonl", judged_rows(samples))
    worked = (run.training_problems("sft") + run.training_problems("pairs"))[: p.solutions]
    rows = [{"problem": item["question"], "answer": item["solution"], "correct": True} for item in worked]
    write_rows(folder / SOLUTIONS, rows)
    return {"problems": len(items), "samples_right": share_right(samples), "solutions": len(rows)}


def train_the_verifier(run: Run, folder: Path) -> dict[str, Any]:
    """Train the verifier on the sampled answers, and fit its temperature on problems that were held out of them.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        How many answers there were, the share that were right, and the number of steps.
    """
    s, v = run.settings, run.settings.verifier
    answers = read_judged(run.folder / "answers" / "answers.jsonl").answers
    training, validation = split_by_problem(answers, (0.9, 0.1), s.seed)
    if s.problems.solutions:  # none is a problem of the validation
        training += read_judged(run.folder / "answers" / SOLUTIONS).answers
    seed_everything(s.seed)
    if v.kind == "decoder":
        verifier = Verifier.from_decoder(run.decoder("dpo").requires_grad_(True), run.tokenizer(), head=v.head)
    else:
        verifier = Verifier.encoder(run.tokenizer(), hidden_size=v.hidden_size, num_hidden_layers=v.num_hidden_layers)
    records = train_verifier(
        verifier, training, validation, epochs=v.epochs, batch_size=v.batch_size, lr=v.lr, lm_weight=v.lm_weight,
        seed=s.seed, checkpoints=CheckpointConfig(folder / CHECKPOINTS, every=50, keep=1), resume=True, log_every=50,
        log_path=folder / "log.jsonl",
    )  # fmt: skip
    calibrated(verifier, validation).save(folder / MODEL, overwrite=True)
    known = training + validation
    return {"answers": len(known), "right": sum(a.correct for a in known) / len(known), "steps": len(records)}


def sample(run: Run, stage: str, items: list[dict], samples: int, seed: int) -> list[Samples]:
    """Sample answers from a stage's model, and judge them.

    Args:
        run: the pipeline.
        stage: the stage whose model answers.
        items: the problems.
        samples: how many answers each problem gets.
        seed: a number that makes these samples differ from others of the same pipeline.

    Returns:
        The samples of each problem, with their verdicts.
    """
    p, tokenizer = run.settings.problems, run.tokenizer()
    prompts = [prompt_of(tokenizer, item["question"]) for item in items]
    answers = write_answers(
        run.decoder(stage), tokenizer, prompts, p.max_new_tokens, samples, p.temperature,
        run.settings.evaluation.batch_size, 10 * run.settings.seed + seed, f"sampling {stage}",
    )  # fmt: skip
    return judged(items, answers)


# --- a training stage ----------------------------------------------------------------------------------------------


def _train(run: Run, stage: str, folder: Path, decided: dict[str, Any]) -> dict[str, Any]:
    """Run `course pretrain`, `sft` or `dpo` in the stage's folder, or continue a run that was interrupted."""
    s, kind, model_folder = run.settings, KINDS[stage], folder / MODEL
    always = {"mode": "full", "seed": s.seed, "device": s.device, "threads": s.threads}
    resume = (model_folder / RUN_FILE).is_file()
    settings, known = claim(model_folder, s.stages[stage] | decided | always, resume, False, kind)
    plan = PLANS[stage](settings)
    points = max(1, plan.steps // s.evaluation.curve_points)
    # The curve is drawn from the checkpoints afterwards; how often one is saved changes no number.
    plan.settings = replace(plan.settings, checkpoint_every=points, keep=s.evaluation.curve_points + 2)
    plan.settings = replace(plan.settings, eval_every=plan.settings.eval_every or points)
    run.say(f"{stage}: {plan.source.what}, {plan.steps:,} steps, {plan.parameters:,} parameters")
    summary = train(plan, model_folder, resume, known, run.say)
    write_json(folder / "curve.json", _curve(run, model_folder))
    for checkpoint in sorted((model_folder / CHECKPOINTS).glob("step_??????"))[:-1]:
        for path in checkpoint.iterdir():
            path.unlink()
        checkpoint.rmdir()
    return summary | {"settings": asdict(settings)}


def _curve(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Measure exact match on the development problems at each checkpoint of a run."""
    items = pocket_problems("development", run.settings.problems.development, run.settings.seed)
    tokenizer, points = run.tokenizer(), []
    prompts = [prompt_of(tokenizer, item["question"]) for item in items]
    model = load_decoder(folder, device=choose_device(run.settings.device))
    for checkpoint in sorted((folder / CHECKPOINTS).glob("step_??????")):
        model.load_state_dict(load_file(checkpoint / "weights.safetensors"))
        answers = write_answers(
            model, tokenizer, prompts, run.settings.problems.max_new_tokens,
            batch_size=run.settings.evaluation.batch_size, what="curve",
        )  # fmt: skip
        right = share_right(judged(items, answers))
        points.append({"step": int(checkpoint.name[5:]), "exact_match": right, "problems": len(items)})
    return points
