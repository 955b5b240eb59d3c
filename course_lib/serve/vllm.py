"""The same server by vLLM, where it is installed: its own command takes the place of this process.

The options were checked against the sources of vLLM 0.33.0 (vllm/engine/arg_utils.py,
vllm/entrypoints/common/cli_args.py). It could not be run where this was written.
"""

import json
import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from course_lib.adapters.files import adapter_config
from course_lib.adapters.trained_on import in_words
from course_lib.errors import CourseError
from course_lib.models.pretrained import resolve
from course_lib.serve.loading import find_base, quantizations, short_name
from course_lib.serve.settings import ServeSettings, named_adapters

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank
# Settings that vLLM's server has nothing for.
WITHOUT = (
    "allowed_host",
    "device",
    "max_answers",
    "max_body_bytes",
    "max_new_tokens",
    "max_prompt_tokens",
    "time_limit",
)


def serve_by_vllm(settings: ServeSettings) -> NoReturn:
    """Become ``vllm serve``.

    It raises CourseError where vLLM is not installed, or a setting is not possible with it.
    """
    program = shutil.which("vllm")
    if program is None:
        raise CourseError(
            "--backend vllm needs vLLM, which is not installed: pip install vllm (on Linux, for a GPU). Without "
            "--backend, the course's own server answers the same calls."
        )
    named = named_adapters(settings.adapter)
    with ExitStack() as stack:
        base, adapters = find_base(settings.model, named, stack)
        words = vllm_command(settings, base, adapters)
        _kept = stack.pop_all()  # vLLM reads the folders that were made of checkpoints and .pt files after this is gone
    for name, how in quantizations(named, adapters).items():
        if how is not None:
            print(
                f"note: {name} was trained on a base quantised as {in_words(how)}, and vLLM puts it on the base in "
                f"{settings.weights}. course serve without --backend puts it on what these bits stand for",
                file=sys.stderr,
                flush=True,
            )
    for name in WITHOUT:
        if getattr(settings, name) != next(each.default for each in fields(settings) if each.name == name):
            print(f"note: vLLM has no setting like {name}, so it is left out", file=sys.stderr, flush=True)
    # The key goes through the environment: words of a command are seen by everybody on the machine.
    environment = os.environ | ({"VLLM_API_KEY": settings.api_key} if settings.api_key else {})
    os.execve(program, words, environment)


def vllm_command(settings: ServeSettings, base: str, adapters: dict[str, Path]) -> list[str]:
    """The words of ``vllm serve`` for these settings.

    Args:
        settings: of the server.
        base: the base's name or folder.
        adapters: folders in PEFT's layout, by name.

    Returns:
        The words, the program's name first. Where batch and cache have the course's defaults, vLLM's own hold: they are
        made for a GPU.

    Raises:
        CourseError: the weights' format is one that only the course has.
    """
    if settings.weights not in ("float32", "bfloat16"):
        raise CourseError(
            f"--weights {settings.weights} is a format of the course's own engine. Leave it out for vLLM."
        )
    words = ["vllm", "serve", str(resolve(base)), "--host", settings.host, "--port", str(settings.port)]
    words += ["--served-model-name", settings.served_model_name or short_name(base), "--dtype", settings.weights]
    usual = {each.name: each.default for each in fields(settings)}
    if (settings.max_batch, settings.max_queue) != (usual["max_batch"], usual["max_queue"]):
        # vLLM's limit counts the requests that run, too.
        words += ["--max-num-seqs", str(settings.max_batch)]
        words += ["--max-num-queued-reqs", str(settings.max_batch + settings.max_queue)]
    if (settings.page_size, settings.max_pages) != (usual["page_size"], usual["max_pages"]):
        words += ["--block-size", str(settings.page_size), "--num-gpu-blocks-override", str(settings.max_pages)]
    if adapters:
        rank = max(int(adapter_config(folder).get("r", 8)) for folder in adapters.values())
        if rank > RANKS[-1]:
            raise CourseError(f"An adapter has rank {rank}, and vLLM takes at most {RANKS[-1]}.")
        words += ["--enable-lora", "--max-loras", str(len(adapters))]
        words += ["--max-lora-rank", str(next(each for each in RANKS if each >= rank)), "--lora-modules"]
        words += [json.dumps({"name": name, "path": str(folder.resolve())}) for name, folder in adapters.items()]
    return words
