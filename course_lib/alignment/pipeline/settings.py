"""What a pipeline is asked to do, which the table `pipeline` of a profile says. This module does not import torch.

The tables of the training stages have the settings of the stage's own command: `[pipeline.sft] lr` means the same as
`course sft --lr`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

from course_lib.alignment.settings import DPOSettings, PretrainSettings, SFTSettings
from course_lib.alignment.verifier_settings import VerifierSettings
from course_lib.errors import CourseError
from course_lib.execution.profile import profile_path, read_profile
from course_lib.finetuning.settings import Settings, complete, setting_names
from course_lib.options import KINDS as IN_WORDS
from course_lib.options import is_of_kind, value_type
from course_lib.suggestions import did_you_mean
from course_lib.vocabulary import VERIFIER_HEADS, VERIFIER_KINDS

KINDS: dict[str, type[Settings]] = {
    "pretrain": PretrainSettings,
    "baseline": PretrainSettings,
    "sft": SFTSettings,
    "dpo": DPOSettings,
}
# Settings that the pipeline decides itself.
DECIDED = {"mode", "model", "family", "tokenizer", "dataset", "dataset_mix", "tokens_target", "max_epochs", "seed"}
DECIDED |= {"allow_more_epochs", "in_order", "vocab_size", "threads", "device", "reference", "from_scratch", "weights"}


@dataclass(frozen=True)
class Problems:
    """How many problems each stage sees. No problem is in two of `sft`, `pairs` and `verifier`.

    Attributes:
        sft: the number of problems with demonstrations.
        short_share: the share of demonstrations that give the answer without the work.
        pairs: the number of training problems that are sampled for preference pairs.
        pair_samples: how many answers are sampled to each of them.
        pairs_each: how many pairs one problem gives at most.
        verifier: the number of training problems whose sampled answers the verifier learns from.
        verifier_samples: how many answers are sampled to each of them.
        solutions: how many worked solutions, of the problems of sft and then of pairs, the verifier reads as right
            answers. It sees no problem that the model before it could not have learnt from.
        development: the number of problems for the curves; recipes are chosen on these.
        held_out: the number of problems for the table.
        temperature: the temperature of the samples that are trained on.
        max_new_tokens: how many tokens an answer may have.
    """

    sft: int = 1500
    short_share: float = 0.6
    pairs: int = 1500
    pair_samples: int = 6
    pairs_each: int = 2
    verifier: int = 1500
    verifier_samples: int = 4
    solutions: int = 0
    development: int = 200
    held_out: int = 1000
    temperature: float = 1.0
    max_new_tokens: int = 32


@dataclass(frozen=True)
class Evaluation:
    """What is measured besides exact match.

    Attributes:
        samples: N, how many samples best-of-N, the majority vote and pass@N have.
        temperature: the temperature of these samples. A low one gives fewer slips, a high one more different answers.
        batch_size: how many answers are written at a time.
        perplexity_on: the corpora whose held-out parts are read.
        perplexity_tokens: how many tokens of each corpus are read at most.
        long_tokens: how many tokens the long text has.
        sinks: how many of the first tokens the `sink` cache keeps.
        window: how many of the last tokens it keeps.
        curve_points: how often each stage is evaluated on the development problems.
    """

    samples: int = 8
    temperature: float = 1.0
    batch_size: int = 256
    perplexity_on: tuple[str, ...] = ("prose", "stories")
    perplexity_tokens: int = 16_384
    long_tokens: int = 2_048
    sinks: int = 4
    window: int = 124
    curve_points: int = 4


@dataclass(frozen=True)
class VerifierTraining:
    """How the verifier is trained: see `alignment.verifier.train_verifier`.

    Three defaults are not those of `VerifierSettings`. The pipeline has a decoder that wrote the answers, which judges
    them better than a new encoder. It is small and has learnt from such problems in every stage before, so it takes a
    higher rate than a model from the hub, and two passes are enough.

    Attributes:
        kind: "decoder" puts a head on the model that wrote the answers, "encoder" is a small network of its own.
        head: the head of a decoder, "last" or "tokens", see `VerifierConfig`.
        lm_weight: the weight of the language model's loss on right answers, for the head "tokens".
        epochs: how often all answers are read.
        batch_size: how many answers a step has.
        lr: the peak learning rate.
        hidden_size: the width of an encoder.
        num_hidden_layers: how many blocks an encoder has.
    """

    kind: str = "decoder"
    head: str = VerifierSettings.head
    lm_weight: float = VerifierSettings.lm_weight
    epochs: int = 2
    batch_size: int = VerifierSettings.batch_size
    lr: float = 5e-4
    hidden_size: int = VerifierSettings.hidden_size
    num_hidden_layers: int = VerifierSettings.num_hidden_layers


@dataclass(frozen=True)
class PipelineSettings:
    """Everything that decides a pipeline's numbers.

    Attributes:
        profile: the name of the profile.
        seed: the seed of weights, orders, problems and samples.
        device: "cpu", "cuda" or "auto".
        threads: how many threads torch uses; with 0, torch decides.
        model: the name of the decoder's shape.
        vocab_size: how many tokens the tokenizer learns.
        data_config: `dataset_mix`, `tokens_target`, `shuffle`, `max_epochs`, `allow_more_epochs`: see `DataConfig`.
        stages: the settings of each training stage, by its name.
        problems: see `Problems`.
        evaluation: see `Evaluation`.
        verifier: see `VerifierTraining`.
    """

    profile: str
    seed: int
    device: str
    threads: int
    model: str
    vocab_size: int
    data_config: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    evaluation: Evaluation = field(default_factory=Evaluation)
    verifier: VerifierTraining = field(default_factory=VerifierTraining)

    def to_dict(self) -> dict[str, Any]:
        """The settings for JSON."""
        return asdict(self)


def load_pipeline(profile: str, seed: int = 0, overrides: Sequence[str] = ()) -> PipelineSettings:
    """Read and check the settings of a profile.

    Args:
        profile: the name of one of our profiles, or the path of a TOML file.
        seed: the seed of everything that is drawn.
        overrides: settings that take the place of the profile's, such as "pipeline.vocab_size=600".

    Returns:
        The settings.

    Raises:
        CourseError: the profile has no table `pipeline`, or a value in it is not possible.

    Example:
        >>> load_pipeline("smoke", overrides=["pipeline.vocab_size=600"]).vocab_size
        600
    """
    top = read_profile(profile_path(profile), overrides)
    if not isinstance(top.get("pipeline"), dict):
        raise CourseError(f"Profile {profile!r} has no table [pipeline]. Copy it from one of our profiles.")
    table = dict(top["pipeline"])
    known = {"cost", "threads", "model", "vocab_size", "data_config", "problems", "evaluation", "verifier", *KINDS}
    _refuse_unknown("pipeline", table, known)
    for name in known - {"threads", "model", "vocab_size"}:
        if not isinstance(table.get(name, {}), dict):
            raise CourseError(f"{name}={table[name]!r} in the table [pipeline] is not possible. It has to be a table.")
    settings = PipelineSettings(
        profile=profile_path(profile).stem,
        seed=seed,
        device=top.get("device", "auto"),
        threads=table.get("threads", top.get("threads", 0)),
        model=table.get("model", "modern-1m"),
        vocab_size=table.get("vocab_size", 512),
        data_config=table.get("data_config", {}),
        stages={name: dict(table.get(name, {})) for name in KINDS},
        problems=_filled(Problems, table, "problems"),
        evaluation=_filled(Evaluation, table, "evaluation"),
        verifier=_filled(VerifierTraining, table, "verifier"),
    )
    _check(settings)
    return settings


def _filled(kind: type, table: Mapping[str, Any], name: str) -> Any:
    """Fill a dataclass from a table of the profile."""
    given = table.get(name, {})
    _refuse_unknown(f"pipeline.{name}", given, {each.name for each in fields(kind)})
    _check_kinds(f"pipeline.{name}", kind, given)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def _refuse_unknown(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    for name in table:
        if name not in known:
            raise CourseError(
                f"[{where}] has the setting {name!r}, which is unknown; it has: {', '.join(sorted(known))}."
                f"{did_you_mean(name, known)}"
            )


def _check_kinds(where: str, kind: type, given: Mapping[str, Any]) -> None:
    """Refuse a value of another type than its setting has."""
    hints = get_type_hints(kind)
    for name, value in given.items():
        wanted = value_type(hints[name])
        if not is_of_kind(value, wanted):
            raise CourseError(
                f"{name}={value!r} in the table [{where}] is not possible. It has to be "
                f"{IN_WORDS.get(wanted, 'a table')}."
            )


def _check(settings: PipelineSettings) -> None:
    """Refuse a value of any stage that is not possible, so that no run ends with an error after hours."""
    from course_lib.data.mixture import DataConfig, check_corpus

    known = {each.name for each in fields(DataConfig)}
    _refuse_unknown("pipeline.data_config", settings.data_config, known)
    if missing := {"dataset_mix", "tokens_target"} - settings.data_config.keys():
        raise CourseError(f"[pipeline.data_config] lacks {min(missing)}. Copy the table from one of our profiles.")
    _check_kinds("pipeline.data_config", DataConfig, settings.data_config)
    DataConfig(**settings.data_config)
    decided = {name: getattr(settings, name) for name in ("model", "vocab_size", "threads", "device")}
    complete(decided, PretrainSettings)
    for name in settings.evaluation.perplexity_on:
        check_corpus(name)
    for stage, kind in KINDS.items():
        given = settings.stages[stage]
        _refuse_unknown(f"pipeline.{stage}", given, setting_names(kind) - DECIDED)
        complete({"mode": "full"} | given, kind)
    _check_numbers(settings)


def _check_numbers(settings: PipelineSettings) -> None:
    """Refuse a number of problems or samples below 1, and a share or temperature out of its range."""
    shares = {"short_share": settings.problems.short_share}
    for part in (settings.problems, settings.evaluation, settings.verifier):
        for each in fields(part):
            value, least = getattr(part, each.name), 0 if each.name == "solutions" else 1
            if each.type is int and value < least:
                raise CourseError(
                    f"{each.name}={value} in the table [pipeline] is not possible. It has to be at least {least}."
                )
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise CourseError(f"{name}={value} in the table [pipeline] is not possible. It is a share from 0 to 1.")
    for temperature in (settings.problems.temperature, settings.evaluation.temperature):
        if not 0 < temperature < math.inf:
            raise CourseError(f"temperature={temperature} draws no samples that differ: give one above 0.")
    _check_verifier(settings.verifier)
    earlier = settings.problems.sft + settings.problems.pairs
    if settings.problems.solutions > earlier:
        raise CourseError(f"solutions={settings.problems.solutions} is not possible: sft and pairs have {earlier}.")
    if settings.problems.pair_samples < 2:
        raise CourseError("pair_samples=1 gives no pairs: a right and a wrong answer are two.")


def _check_verifier(verifier: VerifierTraining) -> None:
    """Refuse a head of the verifier that does not exist or does not go with its other settings."""
    heads = {"decoder": VERIFIER_HEADS, "encoder": ("last",)}
    if verifier.kind not in VERIFIER_KINDS:
        raise CourseError(f"kind={verifier.kind!r} of the verifier is unknown. Choose {' or '.join(VERIFIER_KINDS)}.")
    if verifier.head not in heads[verifier.kind]:
        raise CourseError(
            f"head={verifier.head!r} of a verifier of kind {verifier.kind!r} is not possible. Choose one of "
            f"{', '.join(heads[verifier.kind])}."
        )
    if not 0 < verifier.lr < math.inf:
        raise CourseError(f"lr={verifier.lr} of the verifier is not possible. It has to be above 0.")
    if verifier.lm_weight < 0 or (verifier.lm_weight and verifier.head != "tokens"):
        raise CourseError(
            f"lm_weight={verifier.lm_weight} with head={verifier.head!r} is not possible. It is 0 or more, and above 0 "
            "for the head 'tokens' alone, which keeps the language model's own."
        )
