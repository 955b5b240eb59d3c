"""Check that a checkpoint works on a small machine: it is loaded, continues a text and answers a batch of problems."""

import time
from pathlib import Path
from typing import Any

import torch

from course_lib.alignment.pipeline.answers import judged, prompt_of, share_right, write_answers
from course_lib.data.generators.pocket_problems import pocket_problems
from course_lib.errors import CourseError
from course_lib.execution.environment import hardware, versions
from course_lib.files import write_json
from course_lib.models.config import parameter_count
from course_lib.models.decoder import Decoder
from course_lib.models.devices import device_of
from course_lib.models.folder import stage_of
from course_lib.models.huggingface import load_decoder
from course_lib.models.pretrained import load_tokenizer
from course_lib.training.memory import peak_memory

BATCH, NEW_TOKENS = 8, 32
BEGINNING = "In the evening"


def check_inference(
    model: Path,
    output: Path,
    device: str = "cpu",
    trained_on: str | None = None,
    items: list[dict] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Load a checkpoint, let it continue a text and answer a batch of problems, and write down that it did.

    The file does not say how good the answers are: the evaluation measures that.

    Args:
        model: the folder of a decoder, which may have been trained on another machine.
        output: the path of `inference_ok.json`.
        device: the device that the model runs on here.
        trained_on: the profile that the model was trained with, if it is known.
        items: problems with "question" and "answer"; None takes eight from the development part.
        seed: the seed that chooses those eight.

    Returns:
        {"ok", "right", "load_seconds"}. The file says more.

    Raises:
        CourseError: the model cannot be loaded, or its logits are not finite. Then no file is written, and an older
            one is removed.
    """
    output.unlink(missing_ok=True)
    started = time.perf_counter()
    decoder, tokenizer = load_decoder(model, device=device), load_tokenizer(model)
    loaded = time.perf_counter() - started
    items = items or pocket_problems("development", BATCH, seed)
    _refuse_broken(decoder, tokenizer, model)
    started = time.perf_counter()
    continued = write_answers(decoder, tokenizer, [BEGINNING], NEW_TOKENS)[0][0]
    prompts = [prompt_of(tokenizer, item["question"]) for item in items]
    answers = write_answers(decoder, tokenizer, prompts, NEW_TOKENS)
    seconds = time.perf_counter() - started
    samples = judged(items, answers)
    tokens = sum(len(tokenizer(text)["input_ids"]) for each in answers for text in each)
    about = _machine(device) | {
        "ok": True,
        "model": model.name,
        "stage": stage_of(model),
        "parameters": parameter_count(decoder.config),
        "trained_on_profile": trained_on,
        "load_seconds": loaded,
        "generate_seconds": seconds,
        "new_tokens": tokens,
        "continuation": BEGINNING + continued,
        "problems": [
            {"question": item["question"], "answer": item["answer"], "response": each.answers[0],
             "right": each.correct[0]}
            for item, each in zip(items, samples, strict=True)
        ],
        "right": share_right(samples),
    }  # fmt: skip
    write_json(output, about)
    return {"ok": True, "right": about["right"], "load_seconds": loaded}


def _refuse_broken(decoder: Decoder, tokenizer: Any, model: Path) -> None:
    """CourseError where the logits after a few words are not finite."""
    ids = torch.tensor([tokenizer(BEGINNING)["input_ids"]], device=device_of(decoder))
    with torch.inference_mode():
        logits = decoder(ids).logits
    if not torch.isfinite(logits).all():
        raise CourseError(
            f"{model} gives logits that are not finite: its weights are damaged, or diverged in training."
        )


def _machine(device: str) -> dict[str, Any]:
    """What the check ran on: device, hardware, versions and peak memory."""
    return {
        "device": device,
        "hardware": hardware(),
        "versions": versions(),
        "peak_memory_bytes": peak_memory(torch.device(device)),
    }
