"""What a base and its adapters say to the same prompts (`course compare` prints it)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from course_lib.adapters import disable_adapters, load_adapter, set_adapter, unload
from course_lib.adapters.files import readable_config
from course_lib.data import chat_text
from course_lib.data.tokenizers import ModelTokenizer, has_chat_template
from course_lib.errors import CourseError
from course_lib.evaluation.comparison import Comparison
from course_lib.inference import complete
from course_lib.models.pretrained import load_model, load_tokenizer
from course_lib.quantization import load_dequantized


@dataclass(frozen=True)
class Sampling:
    """How each prompt is continued.

    Attributes:
        samples: how many continuations each prompt gets.
        max_new_tokens: the length of a continuation at most.
        temperature: divides the logits before sampling.
        top_p: the share of probability that nucleus sampling keeps.
        seed: every model draws prompt i with the seed `seed` + i, so that what differs is due to the weights.
        chat: put the prompt into the model's chat template.
    """

    samples: int = 5
    max_new_tokens: int = 40
    temperature: float = 0.8
    top_p: float = 1.0
    seed: int = 0
    chat: bool = False


def compare_adapters(
    base: str,
    adapters: Sequence[Path],
    prompts: Sequence[str],
    sampling: Sampling,
    device: str = "cpu",
    quantized: Mapping[Path, Mapping[str, Any]] | None = None,
) -> Comparison:
    """Continue the prompts with the base and with each adapter; the base is loaded once and the adapters switched.

    Only for adapters that were trained on 4 bits it is loaded again, once for each way of quantising it: they speak on
    what the 4 bits stand for, since on the full weights they would be other models than those that were trained.

    Args:
        base: a model's name or folder.
        adapters: folders of adapters, ours or PEFT's.
        prompts: the texts to continue.
        sampling: how.
        device: where to compute, "cpu" or "cuda".
        quantized: for each adapter that was trained on 4 bits, how: the arguments of `load_dequantized`.

    Returns:
        A Comparison whose rows are, prompt by prompt, the samples.

    Raises:
        CourseError: a folder holds no adapter (said before the base is loaded), or the adapter is of another model.
    """
    folders = names_of(adapters)
    for folder in adapters:
        readable_config(folder)
    quantized = quantized or {}
    on_the_base = {name: folder for name, folder in folders.items() if folder not in quantized}
    tokenizer = load_tokenizer(base)

    def speak(model: Any) -> list[str]:
        return continue_all(model, tokenizer, prompts, sampling)

    model = load_model(base).to(device).eval()
    said = _each_adapter(model, on_the_base, speak)
    del model
    for how in _different(quantized.values()):
        model = load_dequantized(base, **how, device=device)
        mine = {name: folder for name, folder in folders.items() if quantized.get(folder) == how}
        said |= {name: texts for name, texts in _each_adapter(model, mine, speak).items() if name != "base"}
        del model
    rows = [prompt for prompt in prompts for _ in range(sampling.samples)]
    return Comparison(rows, {name: said[name] for name in ("base", *folders)})


def _each_adapter(model: Any, folders: Mapping[str, Path], speak: Callable[[Any], list[str]]) -> dict[str, list[str]]:
    """What the model says without an adapter, under "base", and with each adapter, under its name."""
    # A base can hold many LoRA adapters at once, but one butterfly, which takes the place of whatever was there.
    butterflies = [name for name, folder in folders.items() if readable_config(folder)["peft_type"] == "BUTTERFLY"]
    low_rank = [name for name in folders if name not in butterflies]
    for name in low_rank:
        load_adapter(model, folders[name], name)
    said = {}
    with disable_adapters(model):
        said["base"] = speak(model)
    for name in low_rank:
        set_adapter(model, name)
        said[name] = speak(model)
    for name in butterflies:
        load_adapter(unload(model), folders[name])
        said[name] = speak(model)
    return said


def _different(ways: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The ways without repetitions, in their order."""
    found: list[Mapping[str, Any]] = []
    for way in ways:
        if way not in found:
            found.append(way)
    return found


def names_of(adapters: Sequence[Path]) -> dict[str, Path]:
    """Name each adapter after its folder; numbers tell apart two that are alike."""
    names: dict[str, Path] = {}
    for folder in adapters:
        stem = re.sub(r"[^\w-]", "_", folder.resolve().name) or "adapter"
        if stem in ("base", "default"):  # "base" is the column of the base itself
            stem = f"{stem}_adapter"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = folder
    return names


def continue_all(model: nn.Module, tokenizer: ModelTokenizer, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """Let one model continue every prompt.

    Args:
        model: the model, with the adapter that is to speak.
        tokenizer: the model's.
        prompts: the texts to continue.
        sampling: how.

    Returns:
        `sampling.samples` texts for each prompt, one prompt after another.

    Raises:
        CourseError: chat was asked for, and the tokenizer does not have a chat template.
    """
    if sampling.chat and not has_chat_template(tokenizer):
        raise CourseError("--chat: the tokenizer of this model has no chat template. Leave --chat out.")
    texts = []
    for number, prompt in enumerate(prompts):
        if sampling.chat:
            prompt = chat_text(tokenizer, [{"role": "user", "content": prompt}], True)
        texts += complete(
            model,
            tokenizer,
            [prompt] * sampling.samples,
            sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + number,
            from_template=sampling.chat,
        )
    return texts
