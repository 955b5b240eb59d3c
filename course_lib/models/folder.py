"""What a model's folder in the Hugging Face layout holds: which files, and which names their tensors have.

Two things go wrong in silence with transformers 5.23. A sharded save over a folder with a `model.safetensors` leaves
that file, and loading takes it: the older model. And names that begin with a wrapper's prefix, such as `_orig_mod.`
after `torch.compile`, match nothing: the model gets random weights.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError, first_line

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's name for it
GUIDE_ADAPTER = "lora_final.pt"  # where the trainer of LoRA guides leaves the adapter
TOKENIZER = {"tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json"}
TOKENIZER |= {"merges.txt", "chat_template.jinja", "chat_template.json"}
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
STAGE = "course_stage"  # in the config.json of a decoder that one of our stages has trained
VERIFIER = "course_verifier"  # the model_type of a verifier: no architecture of transformers, so AutoModel refuses it
LFS_POINTER = b"version https://git-lfs"

# Patterns of prefixes that wrappers put into names, and the wrappers.
WRAPPERS = {
    r"(?<![^.])_orig_mod\.": "torch.compile",
    r"(?<![^.])_fsdp_wrapped_module\.": "FSDP",
    r"(?<![^.])_checkpoint_wrapped_module\.": "activation checkpointing",
    r"^module\.": "DistributedDataParallel or DeepSpeed",
}
# Prefixes of models that were saved inside another module; no causal model of transformers has such names itself.
OUTER = {r"^base_model\.model\.": "PEFT", r"^model\.(?=model\.|lm_head\.|transformer\.)": "a module around the model"}


def stage_of(directory: Path | str) -> str | None:
    """The stage that trained our own decoder of a folder: "pretrain", "sft", "dpo"; None for any other model."""
    try:
        return json.loads(Path(directory, CONFIG).read_text(encoding="utf-8")).get(STAGE)
    except (OSError, ValueError, AttributeError):
        return None


def refuse_what_is_no_model(directory: Path) -> None:
    """Refuse a folder of ours that somebody may take for a language model's: of an adapter, a verifier, a checkpoint.

    Args:
        directory: the folder that was given as a model.

    Raises:
        CourseError: in one sentence, what the folder holds and what to give instead.
    """
    if model_type(directory) == VERIFIER:
        raise CourseError(
            f"{directory} holds a verifier, which judges answers and writes none: give the model that it was made "
            "from, or use it with course verifier score."
        )
    if (directory / CONFIG).is_file():
        return
    if is_adapter(directory):
        raise CourseError(
            f"{directory} holds an adapter and not a whole model: give its base as the model and the folder as "
            "--adapter, or make one model of both with course merge."
        )
    if (directory / "weights.safetensors").is_file():
        raise CourseError(
            f"{directory} holds a checkpoint, from which a run goes on with --resume: give the folder of the finished "
            f"run, {directory.absolute().parent.parent}."
        )
    if (directory / "run.json").is_file():
        raise CourseError(f"{directory} holds a run that has not written its model yet: finish it with --resume.")


def model_type(directory: Path) -> str | None:
    """What a folder's config.json says that the model is, such as "llama"; None where it says nothing."""
    try:
        return json.loads((directory / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def is_adapter(directory: Path) -> bool:
    """Whether a folder holds an adapter's settings and no model beside them."""
    return (directory / ADAPTER_CONFIG).is_file() and not (directory / CONFIG).is_file()


def refuse_verifier(adapter: Path) -> None:
    """Raise CourseError where a verifier's folder was given as an adapter."""
    if model_type(adapter) == VERIFIER:
        raise CourseError(
            f"{adapter} holds a verifier, which judges answers, and not an adapter, which changes them: give an "
            "adapter's folder, or use the verifier with course verifier score or rerank."
        )


def plain_name(name: str) -> str:
    """A tensor's name without the prefixes of wrappers: "_orig_mod.model.norm.weight" is "model.norm.weight"."""
    for pattern in WRAPPERS:
        name = re.sub(pattern, "", name)
    return name


def foreign_prefixes(names: Iterable[str]) -> dict[str, str]:
    """The patterns of the prefixes in a file's names, each with the wrapper it comes from; empty for a plain file."""
    names = list(names)
    found = {}
    for pattern, owner in (WRAPPERS | OUTER).items():
        if any(re.search(pattern, name) for name in names):
            found[pattern] = owner
            names = [re.sub(pattern, "", name) for name in names]
    return found


def without_prefixes(name: str, found: Iterable[str]) -> str:
    """A tensor's name without some prefixes.

    Args:
        name: as it is in the file.
        found: the patterns that `foreign_prefixes` has found.

    Returns:
        The plain name.
    """
    for pattern in found:
        name = re.sub(pattern, "", name)
    return name


def renamings(names: Iterable[str], found: Iterable[str]) -> dict[str, str]:
    """What transformers' `key_mapping` needs in order to remove the prefixes.

    It removes one occurrence for each entry, so a prefix that stands twice in a name needs two, spelled differently.

    Args:
        names: the tensors' names in the file.
        found: the patterns that `foreign_prefixes` has found.

    Returns:
        Patterns, each with the empty string that takes its place.
    """
    names = list(names)
    entries: dict[str, str] = {}
    for pattern in found:
        most = max(len(re.findall(pattern, name)) for name in names)
        # "(?:)" is an empty group: it matches nothing more, and makes the pattern another key.
        entries |= {pattern + "(?:)" * i: "" for i in range(most)}
    return entries


def say_prefixes(directory: Path, found: dict[str, str]) -> None:
    """Print one line on stderr about prefixes that were removed.

    Args:
        directory: the model's folder.
        found: as `foreign_prefixes` gives it; nothing is printed where it is empty.
    """
    if found:
        owners = ", ".join(dict.fromkeys(found.values()))
        print(f"{directory}: prefixes of {owners} were removed from the tensors' names.", file=sys.stderr, flush=True)


# --- which files ---------------------------------------------------------------------------------------------------


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the model: model.safetensors, or the shards that the index names.

    Where both are there, the newer one is the model, and a line on stderr says so.

    Raises:
        CourseError: neither is there, a shard is missing, or both are there and equally old.
    """
    single, index = directory / WEIGHTS, directory / INDEX
    if not index.is_file():
        if single.is_file():
            return [single]
        raise CourseError(f"{directory} holds no {WEIGHTS} and no {INDEX}: name the folder of a whole model.")
    shards = _shards(directory, index)
    missing = [shard for shard in shards if not shard.is_file()]
    if not single.is_file():
        if missing:
            raise CourseError(f"{directory} is not complete: {INDEX} names {missing[0].name}, which is not there.")
        return shards
    if missing:  # an index that another save has left behind
        return [single]
    return [single] if _newer_is_single(directory, single, index) else shards


def _shards(directory: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [directory / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{index} cannot be read as an index of shards ({first_line(error)}).") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise CourseError(f"{index} names {outside[0]!r}, which is not a file of this folder.")
    return paths


def _newer_is_single(directory: Path, single: Path, index: Path) -> bool:
    ages = {path: path.stat().st_mtime_ns for path in (single, index)}
    if ages[single] == ages[index]:
        raise CourseError(
            f"{directory} holds two models of the same age: {WEIGHTS}, and the shards of {INDEX}. Remove the one that "
            "you do not want."
        )
    newer = max(ages, key=lambda path: ages[path])
    print(
        f"{directory} holds two models, {WEIGHTS} and the shards of {INDEX}; {newer.name} is newer and is taken.",
        file=sys.stderr,
        flush=True,
    )
    return newer == single


@contextmanager
def one_model(directory: Path, files: list[Path]) -> Iterator[Path]:
    """A folder from which transformers loads just these files: the directory itself, or a folder of links to it.

    transformers takes a `model.safetensors` wherever there is one; beside newer shards it must not see it.

    Args:
        directory: the model's folder.
        files: as `weight_files` gives them.

    Yields:
        The folder to load from.
    """
    if files[0].name == WEIGHTS or not (directory / WEIGHTS).exists():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="course-model-") as links:
        for path in directory.iterdir():
            if path.name != WEIGHTS:
                (Path(links) / path.name).symlink_to(path.resolve(), target_is_directory=path.is_dir())
        yield Path(links)


def move_model(staging: Path, directory: Path) -> None:
    """Move a model's files from `staging` into `directory`, config.json last, and remove what would hide them.

    An older model's weights would be loaded in their place, its generation_config.json has other end tokens, and a
    chat template or vocabulary of its tokenizer would be taken where the new one has none.

    Args:
        staging: the folder with the new files alone.
        directory: where they go.
    """
    written = {path.name for path in staging.iterdir()}
    for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG):  # False comes first, True last
        if path.name == CONFIG:
            _remove_older(directory, written)
        os.replace(path, directory / path.name)


def _remove_older(directory: Path, written: set[str]) -> None:
    with_tokenizer = "tokenizer_config.json" in written
    for path in directory.iterdir():
        weights = path.name in (WEIGHTS, INDEX) or SHARD.fullmatch(path.name) is not None
        others = path.name == "generation_config.json" or (with_tokenizer and path.name in TOKENIZER)
        if (weights or others) and path.name not in written:
            path.unlink()


def open_weights(path: Path) -> Any:
    """A safetensors file, mapped: no tensor of it is read yet. It raises CourseError where the file is another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.open("rb").read(len(LFS_POINTER)) == LFS_POINTER:
            raise CourseError(
                f"{path} is a Git LFS pointer, a few lines of text in place of the weights: fetch them with "
                "`git lfs pull`."
            ) from error
        raise CourseError(
            f"{path} is damaged, or not a safetensors file ({error}). Save or download it again."
        ) from error


def tensor_names(files: Iterable[Path]) -> list[str]:
    """The names of all tensors, from the files' headers."""
    return [name for path in files for name in open_weights(path).keys()]  # noqa: SIM118 - not a dictionary


def check_loaded(directory: Path, names: list[str], info: dict[str, Any]) -> None:
    """Hold what transformers has loaded against the file; print a line about tensors that it did not use.

    Args:
        directory: the model's folder.
        names: the tensors in its files.
        info: what `from_pretrained` says with output_loading_info.

    Raises:
        CourseError: tensors are missing, or have another size than config.json describes.
    """
    if not names:
        raise CourseError(f"{directory} is not complete: its weight files hold no tensors. Save or download it again.")
    if misfits := sorted(info["mismatched_keys"]):
        name, there, wanted = misfits[0]
        raise CourseError(
            f"{directory} does not fit its own config.json: {name} is {tuple(there)} in the file and {tuple(wanted)} "
            "in the model that config.json describes."
        )
    if missing := sorted(info["missing_keys"]):
        raise CourseError(
            f"{directory} is not complete: {_tensors(missing)} missing; the first one in the file is {min(names)}."
        )
    if unused := sorted(info["unexpected_keys"]):
        print(
            f"{directory}: {_tensors(unused)} not part of the model that config.json describes, and not used.",
            file=sys.stderr,
            flush=True,
        )


def _tensors(names: list[str]) -> str:
    """How many tensors there are, and the first: "2 tensors, the first model.norm.weight, are"."""
    return f"the tensor {names[0]} is" if len(names) == 1 else f"{len(names)} tensors, the first {names[0]}, are"
