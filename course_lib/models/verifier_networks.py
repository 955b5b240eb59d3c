"""The two networks of a verifier, and the config that says their shape: see `verifier`.

Shapes in comments: B is the batch, T the time (tokens of problem and answer), C the width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.errors import CourseError
from course_lib.models.decoder import Decoder
from course_lib.vocabulary import VERIFIER_HEADS, VERIFIER_KINDS

TEMPLATES = ("plain", "instruction", "chat")
PROBLEM, ANSWER = 0, 1  # values of part_ids
JUDGE_WIDTH = 64  # of the small network that judges a token
SIGNS = 5  # numbers about a token: its log-probability, the gap, the entropy, and where else it stands
LEAST = -12.0  # log-probabilities below are alike


@dataclass(frozen=True)
class VerifierConfig:
    """The shape of a verifier, and how it reads a problem with its answer.

    Attributes:
        vocab_size: rows of the embedding's table.
        kind: "encoder" or "decoder".
        max_length: tokens of problem and answer; of a longer pair the beginning is left out.
        pad_token_id: fills up shorter rows. It is masked, so any id will do.
        template: "plain" puts the answer on a line of its own; "instruction" and "chat" are those of `encode_record`.
        temperature: logits are divided by it, see `alignment.verifier.fit_temperature`.
        hidden_size: width of the encoder.
        num_hidden_layers: its blocks.
        num_attention_heads: heads of each block.
        dropout: in training.
        decoder: the fields of the `DecoderConfig`, for the kind "decoder" alone.
        head: of the kind "decoder": "last" reads the last token's state, "tokens" judges each token of the answer.

    Raises:
        CourseError: a value is not possible.
    """

    vocab_size: int
    kind: str = "encoder"
    max_length: int = 256
    pad_token_id: int = 0
    template: str = "plain"
    temperature: float = 1.0
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    dropout: float = 0.1
    decoder: dict[str, Any] | None = None
    head: str = "last"

    def __post_init__(self) -> None:
        if self.kind not in VERIFIER_KINDS or self.template not in TEMPLATES:
            raise CourseError(
                f"kind={self.kind!r}, template={self.template!r}: choose from {', '.join(VERIFIER_KINDS)} and "
                f"{', '.join(TEMPLATES)}."
            )
        if self.head not in VERIFIER_HEADS or (self.head == "tokens" and self.kind != "decoder"):
            raise CourseError(
                f"head={self.head!r} with kind={self.kind!r} is not possible. A decoder has one of the heads "
                f"{', '.join(VERIFIER_HEADS)}, an encoder 'last'."
            )
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
        if self.max_length < 2:
            raise CourseError(f"max_length is {self.max_length}; a problem and an answer need at least 2 tokens.")
        if not 0 < self.temperature < float("inf"):
            raise CourseError(f"temperature is {self.temperature}; it has to be a number above 0.")
        if not 0 <= self.dropout < 1:
            raise CourseError(f"dropout is {self.dropout}; it is a probability from 0 to below 1.")
        if self.hidden_size % self.num_attention_heads:
            raise CourseError(
                f"hidden_size is {self.hidden_size}; it has to be a multiple of the {self.num_attention_heads} heads."
            )
        if (self.kind == "decoder") != (self.decoder is not None):
            raise CourseError("kind='decoder' needs the decoder's fields, and kind='encoder' has none.")


class EncoderVerifier(nn.Module):
    """Problem and answer in one row, read in both directions; the answer's tokens vote.

    Besides its position and its part, each token is told whether it occurs in the other part as well, the exact match
    of readers of questions and passages (Chen et al. 2017, arXiv:1704.00051, sec. 3.2). A small network learns from it
    in a few hundred steps what it would else have to find out by attention.

    Args:
        config: of kind "encoder".
    """

    def __init__(self, config: VerifierConfig):
        super().__init__()
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_length, width)
        self.embed_parts = nn.Embedding(2, width)  # problem, answer
        self.embed_shared = nn.Embedding(2, width)  # in this part alone, in both
        block = nn.TransformerEncoderLayer(
            width, config.num_attention_heads, 4 * width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            block, config.num_hidden_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, 1)
        for table in (self.embed_tokens, self.embed_positions, self.embed_parts, self.embed_shared):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.head.weight)  # every answer begins at one half
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor) -> Tensor:
        """The logit of "this answer is right".

        Args:
            input_ids: (batch, time).
            attention_mask: (batch, time), 1 for tokens and 0 for padding.
            part_ids: (batch, time), 0 for the problem and 1 for the answer.

        Returns:
            (batch,).
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
        x = self.embed_tokens(input_ids) + self.embed_positions(positions) + self.embed_parts(part_ids)  # (B, T, C)
        x = x + self.embed_shared(in_both_parts(input_ids, attention_mask, part_ids))
        x = self.encoder(self.dropout(x), src_key_padding_mask=attention_mask == 0)  # True is not looked at
        votes = self.head(x)[:, :, 0]  # (B, T)
        is_answer = (attention_mask * (part_ids == ANSWER)).to(votes.dtype)
        return (votes * is_answer).sum(1) / is_answer.sum(1)


def in_both_parts(input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor) -> Tensor:
    """Which tokens of a problem stand in the answer too, and the other way round.

    Args:
        input_ids: (batch, time).
        attention_mask: (batch, time), 1 for tokens and 0 for padding.
        part_ids: (batch, time).

    Returns:
        int64 (batch, time), 1 for those.
    """
    same = input_ids[:, :, None] == input_ids[:, None, :]  # (B, T, T)
    across = part_ids[:, :, None] != part_ids[:, None, :]
    return (same & across & (attention_mask[:, None, :] == 1)).any(2).long()


class DecoderVerifier(nn.Module):
    """A language model with a scalar head: the last token's hidden state has seen problem and answer.

    Args:
        decoder: its blocks are used, and its head is not.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.config = decoder.config  # what the Trainer and masks ask a model for
        self.model = decoder.model
        self.head = nn.Linear(decoder.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor) -> Tensor:
        """The logit of "this answer is right".

        Args:
            input_ids: (batch, time), padded on the right.
            attention_mask: (batch, time), 1 for tokens and 0 for padding.
            part_ids: not used: the template shows where the answer begins.

        Returns:
            (batch,).
        """
        hidden = self.model(input_ids, attention_mask)  # (B, T, C)
        last = attention_mask.sum(1) - 1  # (B,)
        rows = torch.arange(len(last), device=last.device)
        return self.head(hidden[rows, last])[:, 0]  # (B, C) -> (B,)


class TokenVerifier(nn.Module):
    """A language model that judges each token of the answer; the answer is as good as its worst token.

    What a model was trained to write, it also finds likely. So each token begins with the model's own confidence, its
    log-probability below that of the likeliest token, and a small network adds what it reads in the states around the
    token and in where else the token stands. One wrong number makes an answer wrong, whatever else is right: hence the
    minimum over tokens (Lightman et al. 2023, arXiv:2305.20050, app. F.2, compare the minimum and the product of
    steps).

    The blocks learn from `log_probs` alone, and the judgement sends no gradient into them: a few thousand bits
    "right" or "wrong" would undo what many more tokens have taught. Cobbe et al. (2021, arXiv:2110.14168, sec. 4.2)
    train a verifier on both losses, too.

    Args:
        decoder: its blocks and its head are used.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.config = decoder.config
        self.decoder = decoder
        width = decoder.config.hidden_size
        last = nn.Linear(JUDGE_WIDTH, 1)
        self.judge = nn.Sequential(nn.Linear(3 * width + SIGNS, JUDGE_WIDTH), nn.SiLU(), last)
        self.scale = nn.Parameter(torch.tensor(1.0))  # of the confidence
        self.shift = nn.Parameter(torch.tensor(2.0))
        nn.init.zeros_(last.weight)  # a new verifier goes by the confidence
        nn.init.zeros_(last.bias)

    @property
    def model(self) -> nn.Module:
        """The blocks."""
        return self.decoder.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor) -> Tensor:
        """The logit of "this answer is right".

        Args:
            input_ids: (batch, time), padded on the right.
            attention_mask: (batch, time), 1 for tokens and 0 for padding.
            part_ids: (batch, time), 0 for the problem and 1 for the answer.

        Returns:
            (batch,).
        """
        return self.judge_and_log_probs(input_ids, attention_mask, part_ids)[0]

    def judge_and_log_probs(self, input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the mean log-probability of the answer's tokens.

        Args:
            input_ids: see `forward`.
            attention_mask: see `forward`.
            part_ids: see `forward`.

        Returns:
            (batch,), with a gradient for the judge; (batch,) in nats per token, with a gradient for the language model.
        """
        hidden = self.decoder.model(input_ids, attention_mask)  # (B, T, C)
        is_answer = (attention_mask * (part_ids == ANSWER))[:, 1:].bool()  # (B, T - 1): position t predicts t + 1
        rows, columns = is_answer.nonzero(as_tuple=True)  # (N,) each, N tokens of answers
        tokens = input_ids[rows, columns + 1]
        table = self.decoder.output_weight  # (V, C)
        log_probs = (hidden[rows, columns] @ table.T).log_softmax(-1)  # (N, V)
        likely = log_probs.gather(1, tokens[:, None])[:, 0]  # (N,)
        with torch.no_grad():
            gap = likely - log_probs.amax(1)
            entropy = -(log_probs.exp() * log_probs).sum(1)
            before, after = hidden[rows, columns], hidden[rows, columns + 1]  # (N, C)
            signs = torch.stack(
                [likely.clamp(min=LEAST) / 2, gap.clamp(min=LEAST) / 2, entropy,
                 *(2.0 * mark - 1 for mark in standing_elsewhere(input_ids, attention_mask, part_ids, rows, columns))],
                1,
            )  # fmt: skip
            read = torch.cat([4 * before * table[tokens], after, before, signs], 1)  # (N, 3 C + SIGNS)
        votes = self.judge(read)[:, 0] + self.shift + self.scale * gap  # (N,)
        empty = is_answer.new_zeros(is_answer.shape, dtype=hidden.dtype)
        worst = empty.masked_scatter(is_answer, votes).masked_fill(~is_answer, torch.inf).amin(1)  # (B,)
        mean = empty.masked_scatter(is_answer, likely).sum(1) / is_answer.sum(1)
        return worst, mean


def standing_elsewhere(
    input_ids: Tensor, attention_mask: Tensor, part_ids: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the token after each place stands in the problem, and whether it stands earlier in the answer.

    Args:
        input_ids: (batch, time).
        attention_mask: (batch, time).
        part_ids: (batch, time).
        rows: (N,), the row of each place.
        columns: (N,), where in the row.

    Returns:
        (N,) each, 1 where it does.
    """
    same = input_ids[rows] == input_ids[rows, columns + 1][:, None]  # (N, T)
    is_problem = (part_ids[rows] == PROBLEM) & (attention_mask[rows] == 1)
    is_earlier = torch.arange(input_ids.shape[1], device=input_ids.device)[None] <= columns[:, None]
    in_problem = (same & is_problem).any(1)
    in_answer = (same & is_earlier & (part_ids[rows] == ANSWER)).any(1)
    return in_problem.to(torch.float32), in_answer.to(torch.float32)
