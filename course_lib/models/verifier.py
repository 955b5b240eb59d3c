"""A verifier: how likely it is that an answer to a problem is right (Cobbe et al. 2021, arXiv:2110.14168).

Two networks give the same number, one logit for each pair of problem and answer:

- "encoder": a small `nn.TransformerEncoder` of its own, in which every token sees every other;
- "decoder": the language model that wrote the answers, with a scalar head on the last token's hidden state in place of
  the vocabulary's; or, with head="tokens", with a judgement of each token of the answer, the worst of which counts.

The networks are in `verifier_networks`. Left out: adapters on the decoder.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_lib.data.masking import IGNORE, encode_record
from course_lib.data.records import Record, ask, reply
from course_lib.data.tokenizers import Tokenizer, has_chat_template, is_model_tokenizer
from course_lib.errors import CourseError, first_line
from course_lib.files import apply_umask
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.devices import device_of
from course_lib.models.folder import CONFIG, VERIFIER, WEIGHTS, move_model, open_weights
from course_lib.models.modes import evaluating
from course_lib.models.pretrained import load_tokenizer
from course_lib.models.verifier_networks import (
    ANSWER,
    PROBLEM,
    DecoderVerifier,
    EncoderVerifier,
    TokenVerifier,
    VerifierConfig,
)

TOKENIZER, BPE_FILE = "tokenizer", "bpe_tokenizer.json"

Encoded = dict[str, list[int]]


class Verifier:
    """A network, its tokenizer and its config: `score` says how likely an answer is right.

    Args:
        network: `EncoderVerifier` or `DecoderVerifier`.
        tokenizer: a transformers tokenizer or a `BPETokenizer`.
        config: of the network.

    Raises:
        CourseError: the tokenizer has more ids than the network.
    """

    def __init__(self, network: nn.Module, tokenizer: Tokenizer, config: VerifierConfig):
        ids = _vocabulary(tokenizer)
        if ids > config.vocab_size:
            raise CourseError(
                f"The tokenizer has {ids:,} ids, and the verifier knows {config.vocab_size:,}: give the tokenizer that "
                "it was made with."
            )
        self.network, self.tokenizer, self.config = network, tokenizer, config

    @classmethod
    def encoder(cls, tokenizer: Tokenizer, **settings: Any) -> "Verifier":
        """A small encoder with new weights, drawn from torch's generator.

        Args:
            tokenizer: see the class.
            settings: fields of `VerifierConfig`.

        Returns:
            The verifier, in evaluation.
        """
        config = VerifierConfig(vocab_size=_vocabulary(tokenizer), **settings)
        return cls(EncoderVerifier(config).eval(), tokenizer, config)

    @classmethod
    def from_decoder(cls, decoder: Decoder, tokenizer: Tokenizer, **settings: Any) -> "Verifier":
        """A scalar head on a language model, best on the one that wrote the answers.

        Args:
            decoder: its blocks become the verifier's own: give a copy where the model is still needed.
            tokenizer: see the class.
            settings: fields of `VerifierConfig`. The template is the tokenizer's chat template where it has one, else
                "instruction"; for a `BPETokenizer` "plain".

        Returns:
            The verifier, in evaluation.
        """
        config = VerifierConfig(
            decoder.config.vocab_size,
            "decoder",
            decoder=asdict(decoder.config),
            **({"template": default_template(tokenizer)} | settings),
        )
        return cls(_on_decoder(decoder, config).eval(), tokenizer, config)

    # --- scores ---

    def score(self, problem: str, answer: str) -> float:
        """How likely it is that the answer is right.

        Args:
            problem: what was asked.
            answer: what was answered.

        Returns:
            A number from 0 to 1.

        Raises:
            CourseError: a text is empty.
        """
        return self.score_batch([(problem, answer)])[0]

    def score_batch(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> list[float]:
        """`score` for many pairs.

        Args:
            pairs: problems with their answers; none is needed.
            batch_size: pairs of a forward pass.

        Returns:
            A number from 0 to 1 for each pair, in their order. A pair has the same score alone and in a batch, but for
            rounding.

        Raises:
            CourseError: a text is empty.
        """
        return torch.sigmoid(self.logits(pairs, batch_size) / self.config.temperature).tolist()

    @torch.no_grad()
    def logits(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> Tensor:
        """The network's logits, before the temperature.

        Args:
            pairs: see `score_batch`.
            batch_size: see `score_batch`.

        Returns:
            (pairs,), float64.
        """
        examples = [self.encode(problem, answer) for problem, answer in pairs]
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))  # little padding
        found = torch.zeros(len(examples), dtype=torch.float64)
        device = device_of(self.network)
        with evaluating(self.network):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = self.collate([examples[i] for i in chosen])
                found[chosen] = self.network(**{key: value.to(device) for key, value in batch.items()}).double().cpu()
        return found

    # --- from text to tensors ---

    def encode(self, problem: str, answer: str) -> Encoded:
        """The ids of a pair, within `max_length`.

        Args:
            problem: what was asked.
            answer: what was answered.

        Returns:
            {"input_ids", "part_ids"}, equally long. Of a pair that is too long the beginning is left out.

        Raises:
            CourseError: a text is empty.
        """
        for name, text in {"problem": problem, "answer": answer}.items():
            if not text.strip():
                raise CourseError(
                    f"The {name} is empty: a verifier judges an answer to a problem, so it needs the text of both."
                )
        if self.config.template == "plain":
            parts = [text_ids(self.tokenizer, problem.strip() + "\n"), text_ids(self.tokenizer, answer.strip())]
            ids, part_ids = [*parts[0], *parts[1]], [PROBLEM] * len(parts[0]) + [ANSWER] * len(parts[1])
        else:
            record = Record((ask(problem.strip()), reply(answer.strip())))
            example = encode_record(record, self.tokenizer, template=self.config.template)
            ids = example["input_ids"]
            part_ids = [PROBLEM if label == IGNORE else ANSWER for label in example["labels"]]
        return {"input_ids": ids[-self.config.max_length :], "part_ids": part_ids[-self.config.max_length :]}

    def collate(self, examples: Sequence[Encoded]) -> dict[str, Tensor]:
        """Some encoded pairs as one batch, padded on the right.

        Args:
            examples: from `encode`, at least one.

        Returns:
            int64 (batch, time) each: input_ids, attention_mask, part_ids.
        """
        lengths = torch.tensor([len(each["input_ids"]) for each in examples])
        shape = (len(examples), int(lengths.max()))
        ids = torch.full(shape, self.config.pad_token_id)
        parts = torch.zeros(shape, dtype=torch.long)
        for row, each in enumerate(examples):
            ids[row, : lengths[row]] = torch.tensor(each["input_ids"])
            parts[row, : lengths[row]] = torch.tensor(each["part_ids"])
        mask = (torch.arange(shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask, "part_ids": parts}

    # --- on disk ---

    def save(self, folder: Path | str, overwrite: bool = False) -> Path:
        """Write config.json, model.safetensors, and the tokenizer beside them.

        Args:
            folder: a new one, or one to write over.
            overwrite: whether a model that is there may be replaced.

        Returns:
            The folder.

        Raises:
            CourseError: the folder holds a model, and `overwrite` is false.
        """
        folder = Path(folder)
        if not overwrite and any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
            raise CourseError(f"{folder} holds a model already: choose another folder, or pass overwrite=True.")
        folder.mkdir(parents=True, exist_ok=True)
        reference = _save_tokenizer(self.tokenizer, folder)
        settings = {"model_type": VERIFIER, "tokenizer": reference} | asdict(self.config)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
            state = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
            save_file(state, Path(staging, WEIGHTS), metadata={"format": "pt"})
            apply_umask(Path(staging, WEIGHTS))
            Path(staging, CONFIG).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            move_model(Path(staging), folder)
        return folder

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Verifier":
        """Read what `save` wrote.

        Args:
            folder: of a verifier.
            device: where it goes.

        Returns:
            The verifier, in evaluation.

        Raises:
            CourseError: the folder is missing or damaged, or holds something else.
        """
        folder = Path(folder)
        saved = _read_settings(folder)
        try:
            # A verifier that was saved before a setting existed has the setting's default.
            config = VerifierConfig(
                **{each.name: saved[each.name] for each in fields(VerifierConfig) if each.name in saved}
            )
            reference = folder / saved["tokenizer"]
            network = _network(config)
        except (KeyError, TypeError) as error:
            raise CourseError(f"{folder / CONFIG} does not describe a verifier ({first_line(error)}).") from error
        if not reference.exists():
            raise CourseError(f"{folder} lacks its tokenizer, {saved['tokenizer']}: train or copy the verifier again.")
        open_weights(folder / WEIGHTS)  # it refuses a damaged file in a sentence
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise CourseError(
                f"{folder} does not fit its own config.json: the tensors of {WEIGHTS} are of another network."
            ) from error
        return cls(network.to(device).eval(), load_tokenizer(reference), config)

    def with_temperature(self, temperature: float) -> "Verifier":
        """The same network with another temperature, see `VerifierConfig`."""
        return Verifier(self.network, self.tokenizer, replace(self.config, temperature=temperature))


def default_template(tokenizer: Tokenizer) -> str:
    """How a language model with this tokenizer reads a problem and its answer."""
    if has_chat_template(tokenizer):
        return "chat"
    return "instruction" if is_model_tokenizer(tokenizer) else "plain"


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text without special tokens at its ends.

    Args:
        tokenizer: one of transformers, or a `BPETokenizer`.
        text: what is to be read.

    Returns:
        The ids.
    """
    if is_model_tokenizer(tokenizer):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer.encode(text))


def _vocabulary(tokenizer: Any) -> int:
    """One more than the largest id."""
    return len(tokenizer) if is_model_tokenizer(tokenizer) else tokenizer.vocab_size


def _network(config: VerifierConfig) -> nn.Module:
    if config.decoder is None:
        return EncoderVerifier(config)
    return _on_decoder(Decoder(DecoderConfig(**config.decoder)), config)


def _on_decoder(decoder: Decoder, config: VerifierConfig) -> nn.Module:
    return TokenVerifier(decoder) if config.head == "tokens" else DecoderVerifier(decoder)


def _save_tokenizer(tokenizer: Any, folder: Path) -> str:
    """Write the tokenizer into the folder. Returns what config.json says of it: a name inside the folder."""
    if is_model_tokenizer(tokenizer):
        tokenizer.save_pretrained(folder / TOKENIZER)
        return TOKENIZER
    tokenizer.save(folder / BPE_FILE)
    return BPE_FILE


def _read_settings(folder: Path) -> dict[str, Any]:
    """The config.json of a verifier; CourseError with what the folder is where it is something else."""
    if not folder.is_dir():
        raise CourseError(f"There is no verifier {folder}: train one with course verifier train.")
    path = folder / CONFIG
    if not path.is_file():
        kinds = {"adapter_config.json": "an adapter", "state.json": "a checkpoint of the Trainer"}
        what = next((kind for name, kind in kinds.items() if (folder / name).is_file()), "no verifier")
        raise CourseError(f"{folder} holds {what}: give the folder that course verifier train has written.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = settings.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CourseError(f"{path} cannot be read ({first_line(error)}).") from error
    if kind != VERIFIER:
        raise CourseError(
            f"{folder} holds a model of type {kind!r} and no verifier: course verifier train --kind decoder --model "
            f"{folder} makes one of it."
        )
    return settings
