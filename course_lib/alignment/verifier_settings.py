"""The settings of `course verifier train`. Cheap: no torch.

A setting is declared here once: its name is the command's option and the key in run.json, and `train_verifier` and the
pipeline take its default where they do not say why they have another.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from course_lib.errors import CourseError
from course_lib.options import check_options, option
from course_lib.suggestions import did_you_mean
from course_lib.vocabulary import VERIFIER_HEADS, VERIFIER_KINDS

GENERATED = ("word_problems", "instructions")  # the sets of data.generators.judged, whose room imports NumPy
RATES = MappingProxyType({"encoder": 1e-3, "decoder": 1e-4})  # the peak learning rate of each kind
DATA, MODEL, STEPS = "data", "model", "training"


@dataclass(frozen=True)
class VerifierSettings:
    """What decides a run of `course verifier train`."""

    dataset: tuple[str, ...] = option(
        ("word_problems",), "what to learn from: see above", group=DATA, metavar="SOURCE", shown="word_problems"
    )
    limit: int | None = option(
        None, "problems of each generated set", group=DATA, at_least=1, shown="as many as the set has by itself"
    )
    author: tuple[str, ...] | None = option(
        None, "use the answers of these writers alone", group=DATA, metavar="NAME", shown="all"
    )

    kind: str = option("encoder", "the network of the verifier: see above", group=MODEL, choices=VERIFIER_KINDS)
    model: str | None = option(
        None, "decoder: the model whose blocks it takes", group=MODEL, metavar="NAME", shown="SmolLM2"
    )
    head: str = option("last", "decoder: what judges an answer, see above", group=MODEL, choices=VERIFIER_HEADS)
    train_blocks: int | None = option(None, "decoder: train the last N blocks", group=MODEL, at_least=0, shown="all")
    hidden_size: int = option(128, "encoder: its width", group=MODEL, at_least=1)
    num_hidden_layers: int = option(2, "encoder: number of its blocks", group=MODEL, at_least=1)
    vocab_size: int = option(1024, "encoder: tokens that its tokenizer learns", group=MODEL)
    encoder_dropout: float = option(
        0.1, "encoder: share of the activations that training drops", group=MODEL, at_least=0, below=1
    )
    seq_len: int = option(256, "tokens of a problem and its answer", group=MODEL, at_least=2)

    epochs: int = option(6, "passes over the answers", group=STEPS, at_least=1)
    batch_size: int = option(32, "answers in a step", group=STEPS, at_least=1)
    lr: float | None = option(None, "peak learning rate", group=STEPS, above=0, shown="encoder: 1e-3; decoder: 1e-4")
    lm_weight: float = option(
        0.0, "--head tokens: weight of the language model's loss, see above", group=STEPS, at_least=0
    )
    weight_decay: float = option(0.01, "weight decay of AdamW", group=STEPS, at_least=0)
    seed: int = option(0, "seed of the weights, the order of the answers and the split", group=STEPS)
    checkpoint_every: int = option(100, "steps between checkpoints; 0: none", group=STEPS, at_least=0)
    log_every: int = option(20, "steps between printed lines; 0: none", group=STEPS, at_least=0, free=True)

    def check(self) -> None:
        """Refuse a value that is not possible, or that does not go with another, before anything is written.

        Raises:
            CourseError: a value is out of its range, a source does not exist, or two settings exclude each other.
        """
        for source in self.dataset:
            if source not in GENERATED and not Path(source).expanduser().is_file():
                raise CourseError(
                    f"--dataset {source}: there is no such file, and no generated set of that name "
                    f"({', '.join(GENERATED)}).{did_you_mean(source, GENERATED)}"
                )
        check_options(self)
        if self.kind == "encoder" and (self.model or self.train_blocks is not None):
            raise CourseError("--model and --train-blocks are for --kind decoder: an encoder begins with new weights.")
        if self.kind == "encoder" and self.head == "tokens":
            raise CourseError("--head tokens is for --kind decoder: an encoder writes no tokens to be compared.")
        if self.lm_weight and self.head != "tokens":
            raise CourseError(f"--lm-weight {self.lm_weight:g} is for --head tokens: leave it out, or give that.")
