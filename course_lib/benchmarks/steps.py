"""A training step and loading, on the real SmolLM2: our code beside transformers, PEFT and bitsandbytes.

Times are taken in pairs in one process. Memory is taken in one process for each side, since a process has one peak.
"""

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.benchmarks.timing import paired
from course_lib.seeding import seed_everything
from course_lib.training.master_weights import make_adamw
from course_lib.training.memory import peak_memory

BATCH, TIME = 4, 64
# How far the losses of both sides may lie apart, in nats. In bfloat16 each side rounds at other places.
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}


def our_step(mode: str, model: str, device: str, dtype: str, compile: bool = False) -> Callable[[], float]:
    """Make a function that does one step of our Trainer on a fixed batch.

    Args:
        mode: "lora" trains rank 8 on q_proj and v_proj; "qlora" does so on a base in doubly quantised NF4; "full"
            trains every weight.
        model: a Llama of vocabulary 49,152, by name or folder.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the weights.
        compile: whether the forward pass goes through torch.compile.

    Returns:
        The function, which returns the step's loss.
    """
    from course_lib.adapters import inject_lora, lora_layers
    from course_lib.models.huggingface import load_decoder
    from course_lib.models.onednn import fast_products
    from course_lib.models.pretrained import resolve
    from course_lib.quantization import quantize_model
    from course_lib.training import Trainer, TrainingConfig

    seed_everything(0)
    decoder = load_decoder(resolve(model), dtype).to(device)
    if mode == "qlora":
        quantize_model(decoder, double_quant=True)
    if mode in ("lora", "qlora"):
        inject_lora(decoder, ["q_proj", "v_proj"], rank=8, alpha=16)
        draw_a(layer.A for _, layer in lora_layers(decoder))
    trainer = Trainer(decoder.train(), TrainingConfig(lr=1e-4, schedule="constant", compile=compile), log_every=0)
    batch = _batch()

    def step() -> float:
        with fast_products():  # as in `course train`
            return trainer.step(0, 1, [batch]).loss

    return step


def peer_step(mode: str, model: str, device: str, dtype: str, compile: bool = False) -> Callable[[], float]:
    """Make the same step with transformers' model and loss, PEFT's layers, and torch's fused AdamW and clipping.

    Args:
        mode: as for `our_step`; the base of "qlora" is in bitsandbytes' layers.
        model: a Llama of vocabulary 49,152, by name or folder.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the weights.
        compile: whether the forward pass goes through torch.compile.

    Returns:
        The function, which returns the step's loss.
    """
    from peft import LoraConfig, get_peft_model

    from course_lib.models.pretrained import resolve

    seed_everything(0)
    if mode == "qlora":
        peer = load_bitsandbytes(str(resolve(model)), dtype, device)
    else:
        peer = _load("peer", str(resolve(model)), dtype).to(device)
    if mode in ("lora", "qlora"):
        peer = get_peft_model(peer, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
        draw_a(matrix for name, matrix in peer.named_parameters() if ".lora_A." in name)
    peer.train()  # and never eval(): there, bitsandbytes repacks the weights for a kernel without a backward pass
    forward = torch.compile(peer) if compile else peer
    trained = [p for p in peer.parameters() if p.requires_grad]
    # torch's fused AdamW, transformers' default. Of bfloat16 weights both sides keep masters: else the peer does less.
    optimizer = make_adamw(trained, lr=1e-4, weight_decay=0.0)
    tokens = torch.as_tensor(_batch(), device=device)

    def step() -> float:
        loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def load_bitsandbytes(directory: str, dtype: str, device: str) -> nn.Module:
    """Load transformers' model with its linear layers in doubly quantised NF4, as the QLoRA paper has it.

    Args:
        directory: the model's folder.
        dtype: of the other weights, and of what is computed.
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        The model.
    """
    from transformers import BitsAndBytesConfig

    from course_lib.models.pretrained import load_model

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return load_model(directory, dtype, quantization_config=config, device_map={"": device})


@torch.no_grad()
def draw_a(matrices: Iterable[Tensor]) -> None:
    """Start both sides from the same A: the two libraries draw it at different moments."""
    seed_everything(0)
    for matrix in matrices:
        nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))


def _batch() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 49_152, (BATCH, TIME))


def bench_step(
    mode: str,
    threads: int,
    pairs: int,
    model: str,
    device: str = "cpu",
    compile: bool = False,
    dtype: str = "float32",
) -> dict[str, float]:
    """Time and peak memory of a training step, ours and the peer's, on the same batch and in the same dtype.

    Args:
        mode: "lora", "qlora" or "full", as for `our_step`.
        threads: how many threads torch may use.
        pairs: how many pairs of steps are timed, after two to warm up.
        model: a Llama of vocabulary 49,152, by name or folder.
        device: "cpu", "cuda" or "cuda:N".
        compile: whether both sides go through torch.compile.
        dtype: "float32" or "bfloat16", of the weights and of what is computed with them, on both sides.

    Returns:
        Median times in milliseconds and the median of the pairs' ratios; peak memory of either side in megabytes, each
        measured in a process of its own, and their ratio.

    Raises:
        AssertionError: The two sides compute different losses, so their times cannot be compared.
    """
    from course_lib.models.devices import check_device, wait_for

    check_device(device)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's, of transformers
    torch.set_num_threads(threads)
    ours, theirs = (make(mode, model, device, dtype, compile) for make in (our_step, peer_step))
    # The second loss is taken after an update: it tells whether the gradients agree too.
    for losses in [(ours(), theirs()) for _ in range(2)]:
        if abs(losses[0] - losses[1]) > LOSS_TOLERANCE[dtype]:
            raise AssertionError(f"The two sides compute different losses: {losses[0]} and {losses[1]}.")
    wait = wait_for(device)
    times = paired(lambda: (ours(), wait()), lambda: (theirs(), wait()), pairs, warm_up=2)
    figures = {"step_ms": 1e3 * times.ours_s, "peer_step_ms": 1e3 * times.theirs_s, "ratio": times.ratio}
    memory = {side: _measured("step", side, mode, model, device, dtype, threads) for side in ("our", "peer")}
    return figures | {
        "peak_mb": memory["our"] / 1e6,
        "peer_peak_mb": memory["peer"] / 1e6,
        "peak_ratio": memory["our"] / memory["peer"],
    }


def bench_load(threads: int, pairs: int, model: str) -> dict[str, float]:
    """Time and peak memory of loading the weights, into our decoder and into transformers' model.

    Args:
        threads: how many threads torch may use.
        pairs: how many pairs of loads are timed.
        model: a model by name or folder.

    Returns:
        Median times in seconds and their ratio, and sizes in megabytes.
    """
    from course_lib.models.pretrained import resolve

    torch.set_num_threads(threads)
    directory = str(resolve(model))
    times = paired(lambda: _load("our", directory), lambda: _load("peer", directory), pairs)
    memory = {side: _measured("load", side, "", directory, "cpu", "float32", threads) for side in ("our", "peer")}
    weights = sum(p.numel() * p.element_size() for p in _load("our", directory).parameters())
    return {
        "load_s": times.ours_s,
        "peer_load_s": times.theirs_s,
        "ratio": times.ratio,
        "weights_mb": weights / 1e6,
        "peak_mb": memory["our"] / 1e6,
        "peer_peak_mb": memory["peer"] / 1e6,
    }


def _load(side: str, directory: str, dtype: str = "float32") -> nn.Module:
    """The weights, each page of them touched: a file that is only mapped has not been read."""
    if side == "our":
        from course_lib.models.huggingface import load_decoder

        model = load_decoder(directory, dtype)
    else:
        from course_lib.models.pretrained import load_model

        model = load_model(directory, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sum()
    return model


def _measured(*arguments: object) -> int:
    """Peak memory in bytes of `main(*arguments)` in a process of its own."""
    command = [sys.executable, "-m", "course_lib.benchmarks.steps", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    return int(done.stdout.splitlines()[-1])


def main(what: str, side: str, mode: str, model: str, device: str, dtype: str, threads: int) -> None:
    """Do the work of one side, and print the process's peak memory in bytes.

    Args:
        what: "load", or "step" for three training steps.
        side: "our" or "peer".
        mode: "lora", "qlora" or "full"; it changes nothing for "load".
        model: a model by name or folder.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the weights.
        threads: how many threads torch may use.
    """
    torch.set_num_threads(threads)
    if what == "load":
        _load(side, model)
    else:
        step = (our_step if side == "our" else peer_step)(mode, model, device, dtype)
        for _ in range(3):
            step()
    print(peak_memory(torch.device(device)))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
