"""A preference step on the real SmolLM2: our shared prompts beside TRL's DPOTrainer, on the same pairs.

The prompts are long and the responses short, as in chats of several turns and in questions about a text. In a step TRL
computes each prompt four times, with either response and through policy and reference; ours computes it twice. Times
are taken in pairs in one process. Memory is taken in one process for each side, since a process has one peak.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from course_lib.benchmarks.steps import LOSS_TOLERANCE, draw_a
from course_lib.benchmarks.timing import paired
from course_lib.seeding import seed_everything
from course_lib.training.master_weights import make_adamw
from course_lib.training.memory import peak_memory

LR, BETA, RANK, ALPHA, TARGETS = 1e-4, 0.1, 8, 16, ("q_proj", "v_proj")
VOCABULARY = 49_152
# TRL's documentation asks a machine without a GPU for use_cpu=True. bfloat16 and recomputed activations, which are on
# by default, are off on both sides.
TRL_OPTIONS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "beta": BETA,
    "report_to": "none",
}


@dataclass(frozen=True)
class Shape:
    """What a step trains on.

    Attributes:
        batch_size: pairs of a step.
        prompt: tokens of each prompt.
        response: tokens of a response on average; each has up to a quarter more or fewer.
    """

    batch_size: int = 2
    prompt: int = 280
    response: int = 35


def random_pairs(shape: Shape) -> list[dict[str, Any]]:
    """Pairs of random token ids, as `encode_pairs` gives them.

    Args:
        shape: how many and how long.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(shape.batch_size):
        lengths = np.round(shape.response * rng.uniform(0.75, 1.25, 2)).astype(int)
        parts = zip(("prompt", "chosen", "rejected"), (shape.prompt, *lengths), strict=True)
        pair = {part: rng.integers(0, VOCABULARY, length).tolist() for part, length in parts}
        found.append(pair | {"input_ids": [*pair["prompt"], *pair["chosen"], *pair["rejected"]]})
    return found


def our_step(model: str, shape: Shape, cached: bool = False) -> Callable[[], float]:
    """Make a function that does one step of our Trainer on fixed pairs.

    Args:
        model: a Llama of vocabulary 49,152, by name or folder.
        shape: of the pairs.
        cached: whether the reference's values are at hand; else the adapter is switched off to compute them.

    Returns:
        The function, which returns the step's loss.
    """
    from course_lib.adapters import inject_lora, lora_layers
    from course_lib.alignment.objective import PreferenceObjective
    from course_lib.alignment.pairs import collate_pairs
    from course_lib.alignment.reference import AdapterOff, Cached
    from course_lib.models.huggingface import load_decoder
    from course_lib.models.pretrained import resolve
    from course_lib.training import Trainer, TrainingConfig

    seed_everything(0)
    decoder = load_decoder(resolve(model))
    inject_lora(decoder, TARGETS, rank=RANK, alpha=ALPHA)
    draw_a(layer.A for _, layer in lora_layers(decoder))
    pairs = _with_values(random_pairs(shape)) if cached else random_pairs(shape)
    objective = PreferenceObjective(Cached() if cached else AdapterOff(), BETA)
    config = TrainingConfig(lr=LR, schedule="constant", max_grad_norm=1.0)
    trainer = Trainer(decoder.train(), config, log_every=0, objective=objective)
    batch = collate_pairs(pairs, range(len(pairs)), 0)
    return lambda: trainer.step(0, 1, [batch]).loss


def peer_step(model: str, shape: Shape, cached: bool = False) -> Callable[[], float]:
    """Make the same step with TRL's collator and loss, PEFT's adapter, and torch's fused AdamW and clipping.

    Args:
        model: a Llama of vocabulary 49,152, by name or folder.
        shape: of the pairs.
        cached: whether the reference's values are at hand (TRL's precompute_ref_log_probs).

    Returns:
        The function, which returns the step's loss.
    """
    trainer = trl_trainer(model)
    trainer.precompute_ref_logps = cached
    peer = trainer.model.train()
    draw_a(matrix for name, matrix in peer.named_parameters() if ".lora_A." in name)
    pairs = _with_values(random_pairs(shape)) if cached else random_pairs(shape)
    inputs = trainer.data_collator([_in_their_names(pair) for pair in pairs])
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimizer = make_adamw(trained, lr=LR, weight_decay=0.0)

    def step() -> float:
        loss = trainer.compute_loss(peer, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def trl_trainer(model: str) -> Any:
    """TRL's DPOTrainer with a new adapter of PEFT's on a model, whose reference is the model without it.

    Args:
        model: a Llama, by name or folder.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from course_lib.models.pretrained import load_model, load_tokenizer, resolve

    library: Any = trl  # it does not list its public names
    seed_everything(0)
    # It wants texts and a tokenizer when it is made. The pairs that are timed go to its collator as token ids.
    rows = Dataset.from_list([{"prompt": "Which lamp?", "chosen": " This one.", "rejected": " None."}])
    with tempfile.TemporaryDirectory() as folder:
        return library.DPOTrainer(
            load_model(str(resolve(model)), "float32"),
            args=library.DPOConfig(folder, **TRL_OPTIONS),
            train_dataset=rows,
            processing_class=load_tokenizer(),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM"),
        )


def _with_values(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with a reference's log-probabilities; any numbers do for a measurement of time."""
    each = float(np.log(VOCABULARY))
    return [pair | {"reference": [-each * len(pair[part]) for part in ("chosen", "rejected")]} for pair in pairs]


def _in_their_names(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair as a row of TRL's prepared data set."""
    row = {f"{part}_ids": pair[part] for part in ("prompt", "chosen", "rejected")}
    if "reference" in pair:
        row |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), pair["reference"], strict=True))
    return row


def bench_dpo(threads: int, pairs: int, model: str, shape: Shape, cached: bool = False) -> dict[str, float]:
    """Pairs a second and peak memory of a preference step, ours and TRL's, in float32 on a CPU.

    Args:
        threads: how many threads torch may use.
        pairs: how many pairs of steps are timed, after two to warm up.
        model: a Llama of vocabulary 49,152, by name or folder.
        shape: of the batch.
        cached: whether both sides have the reference's values at hand; else both switch their adapter off.

    Returns:
        Preference pairs a second of either side, and the median of how many times as fast ours is; peak memory in
        megabytes, each side in a process of its own, and ours / theirs.

    Raises:
        AssertionError: the two sides compute different losses, so their times cannot be compared.
    """
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing`", FutureWarning)  # PEFT's and TRL's
    torch.set_num_threads(threads)
    ours, theirs = our_step(model, shape, cached), peer_step(model, shape, cached)
    # The second loss is taken after an update: it tells whether the gradients agree too.
    for losses in [(ours(), theirs()) for _ in range(2)]:
        if abs(losses[0] - losses[1]) > LOSS_TOLERANCE["float32"]:
            raise AssertionError(f"The two sides compute different losses: {losses[0]} and {losses[1]}.")
    times = paired(ours, theirs, pairs, warm_up=0)
    memory = {side: _measured(side, model, shape, threads, cached) for side in ("our", "peer")}
    return {
        "pairs_per_s": shape.batch_size / times.ours_s,
        "trl_pairs_per_s": shape.batch_size / times.theirs_s,
        "times_as_fast": 1 / times.ratio,
        "peak_mb": memory["our"] / 1e6,
        "trl_peak_mb": memory["peer"] / 1e6,
        "peak_ratio": memory["our"] / memory["peer"],
    }


def configuration(shape: Shape, cached: bool = False) -> dict[str, Any]:
    """What a reader of the figures has to know to repeat them.

    Args:
        shape: of the batch.
        cached: see `bench_dpo`.

    Returns:
        The configuration, as JSON can hold it.
    """
    reference = "values computed before" if cached else "adapter off"
    return {
        "batch": asdict(shape),
        "both": {"dtype": "float32", "lora": {"rank": RANK, "alpha": ALPHA, "target_modules": TARGETS}, "lr": LR,
                 "beta": BETA, "optimizer": "torch's fused AdamW", "max_grad_norm": 1.0, "reference": reference},
        "trl": TRL_OPTIONS,
    }  # fmt: skip


def _measured(*arguments: Any) -> int:
    """Peak memory in bytes of `main(*arguments)` in a process of its own."""
    said = json.dumps([asdict(each) if isinstance(each, Shape) else each for each in arguments])
    done = subprocess.run([sys.executable, "-m", "course_lib.benchmarks.dpo", said], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    return int(done.stdout.splitlines()[-1])


def main(side: str, model: str, shape: dict[str, int], threads: int, cached: bool) -> None:
    """Do two steps of one side, and print the process's peak memory in bytes.

    Args:
        side: "our" or "peer".
        model: a model by name or folder.
        shape: the fields of `Shape`.
        threads: how many threads torch may use.
        cached: see `bench_dpo`.
    """
    torch.set_num_threads(threads)
    step = (our_step if side == "our" else peer_step)(model, Shape(**shape), cached)
    for _ in range(2):  # with AdamW's state, which the first step makes
        step()
    print(peak_memory(torch.device("cpu")))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
