"""Models in 4 bits, from files and to files.

`load_quantized` never holds the float model: it reads one tensor at a time, quantises it and frees it. What
`save_quantized` writes is a folder that transformers loads with bitsandbytes, and `load_quantized` reads such folders
too (`state` has the names; tests/quantization/test_files.py loads in both directions).

Left out: our own decoder, and sharded saves. A model that transformers changes while loading is loaded whole first.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.devices import check_device
from course_lib.models.folder import (
    CONFIG,
    INDEX,
    WEIGHTS,
    foreign_prefixes,
    move_model,
    open_weights,
    say_prefixes,
    weight_files,
    without_prefixes,
)
from course_lib.models.huggingface import DTYPES
from course_lib.models.pretrained import DEFAULT, in_one_sentence, load_model, resolve
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.model import dequantize_model, is_quantized, quantizable, quantize_model
from course_lib.quantization.state import from_state, to_state
from course_lib.quantization.tensor import QuantizedTensor, check_kind, quantize_4bit
from course_lib.training.memory import return_freed_memory

COMPUTED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # older files carry them; they are computed now


def load_quantized(
    name: str | Path = DEFAULT,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = False,
    skip: Sequence[str] = ("lm_head",),
    dtype: str = "float32",
    device: str = "cpu",
    compute_dtype: torch.dtype | None = None,
) -> Any:
    """Load a model straight into 4 bits: of what is quantised, one tensor at a time is there in full precision.

    A checkpoint that is in 4 bits already, by `save_quantized` or by transformers, is loaded as it is.

    Args:
        name: as for `pretrained.load`.
        quant_type: "nf4", "fp4" or "int4".
        block_size: weights that share a constant.
        double_quant: quantise the constants as well.
        skip: names or ends of names of layers that stay.
        dtype: of the embedding, the norms and what else stays.
        device: where the model goes.
        compute_dtype: as for `Linear4bit`.

    Returns:
        A transformers model in evaluation mode, frozen, whose linear layers are `Linear4bit`.

    Raises:
        CourseError: the model cannot be found or is not complete, its weights cannot be quantised, or it is in 4 bits
            of another kind already.
    """
    check_kind(quant_type, block_size)
    if dtype not in DTYPES:
        raise CourseError(f"There is no dtype {dtype!r} for the layers that stay: choose one of {', '.join(DTYPES)}.")
    check_device(device)
    directory = resolve(name)
    stored = stored_quantization(directory)
    _refuse_other_kind(directory, stored, quant_type, double_quant)
    model = _without_weights(directory, DTYPES[dtype], name)
    places = _places(directory, model)
    if stored is None and _missing(model, places):
        # transformers renames or fuses some models' weights while loading, or the folder is not complete, which
        # `load_model` then says.
        whole = load_model(name, dtype).to(device)
        return quantize_model(whole, skip, quant_type, block_size, double_quant, compute_dtype).eval()
    layers = _layers(model, skip, stored is not None, places)
    _check_complete(directory, model, places, {} if stored is None else layers)
    _fill(model, places, DTYPES[dtype], {f"{layer}.weight" for layer in layers})
    made = (
        _quantized(layers, places, DTYPES[dtype], (quant_type, block_size, double_quant))
        if stored is None
        else _stored(directory, layers, places, block_size)
    )
    for layer, weight in made:
        module: Any = layers[layer]
        model.set_submodule(layer, Linear4bit(weight, module.bias, compute_dtype, isinstance(module, Conv1D)))
    model.tie_weights()
    model.config._name_or_path = model.name_or_path = str(name)
    return model.to(device).eval()


def _layers(model: Any, skip: Sequence[str], in_4_bits: bool, places: "dict[str, Place]") -> dict[str, nn.Module]:
    """The layers that have 4-bit weights: of a checkpoint in 4 bits the file decides which, and else `skip`."""
    if not in_4_bits:
        return quantizable(model, skip)
    return {layer: module for layer, module in quantizable(model, ()).items() if f"{layer}.weight.absmax" in places}


def _refuse_other_kind(directory: Path, stored: dict[str, Any] | None, quant_type: str, double_quant: bool) -> None:
    """CourseError where a checkpoint in 4 bits is of another kind than the one that was asked for."""
    if stored is not None and stored != {"quant_type": quant_type, "double_quant": double_quant}:
        raise CourseError(
            f"{directory} is quantised already, to {stored['quant_type']} with double_quant={stored['double_quant']}: "
            f"load it as that, or load the float model to make {quant_type} with double_quant={double_quant} of it."
        )


def load_dequantized(
    name: str | Path = DEFAULT,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    skip: Sequence[str] = ("lm_head",),
) -> Any:
    """Load the plain model that the base's 4 bits stand for. It is what an adapter of QLoRA was trained on.

    Such an adapter also corrects the errors of 4 bits. On the weights before quantisation it would correct errors that
    are not there. Our codes are bitsandbytes', so that this serves adapters trained on either.

    Args:
        name: as for `load_quantized`, like the next three; it may be a checkpoint in 4 bits.
        quant_type: see there.
        block_size: see there.
        double_quant: see there.
        dtype: what the weights were quantised from in training, and the dtype of the result.
        device: where the model goes.
        skip: names or ends of names of layers that were not in 4 bits in training.

    Returns:
        A transformers model in evaluation mode, frozen, without any 4-bit layer.

    Raises:
        CourseError: as for `load_quantized`.
    """
    model = load_quantized(name, quant_type, block_size, double_quant, skip, dtype, device)
    return dequantize_model(model, DTYPES[dtype])


def _quantized(
    layers: dict[str, nn.Module], places: "dict[str, Place]", dtype: torch.dtype, how: tuple[str, int, bool]
) -> Iterator[tuple[str, QuantizedTensor]]:
    """Each layer's name and its weight in 4 bits, read, quantised and freed before the next one is read."""
    for layer, module in layers.items():
        weight = _read(places[f"{layer}.weight"]).to(dtype)
        try:
            made = quantize_4bit(weight.T if isinstance(module, Conv1D) else weight, *how)
        except CourseError as error:
            raise CourseError(f"{layer}: {error}") from None
        del weight
        return_freed_memory()  # or what is kept here lies between holes: 150 MB of them after SmolLM2's 210 layers
        yield layer, made


def _stored(
    directory: Path, layers: dict[str, nn.Module], places: "dict[str, Place]", block_size: int
) -> Iterator[tuple[str, QuantizedTensor]]:
    """Each layer's name and its weight as the checkpoint has it, in 4 bits."""
    for layer, module in layers.items():
        weight = from_state(f"{layer}.weight", _state_of(places, layer))
        _check_shape(f"{layer}.weight", weight.shape, _matrix_shape(module))
        if weight.block_size != block_size:
            raise CourseError(
                f"{directory} is quantised already, in blocks of {weight.block_size}: load it with that block size, or "
                f"load the float model to make blocks of {block_size} of it."
            )
        yield layer, weight


def stored_quantization(directory: Path | str) -> dict[str, Any] | None:
    """How the checkpoint in a folder is quantised, by the names of `load_quantized`; None where it is not.

    It raises CourseError where it is quantised by another method than bitsandbytes' 4 bits.
    """
    try:
        about = json.loads(Path(directory, CONFIG).read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError) as error:
        raise CourseError(f"{Path(directory, CONFIG)} cannot be read as a model's config ({error}).") from error
    if not about:
        return None
    if about.get("quant_method") != "bitsandbytes" or not about.get("load_in_4bit"):
        method = about.get("quant_method", "an unknown method")
        raise CourseError(
            f"{directory} is quantised already, by {method}, which is not read here: load the float model."
        )
    return {
        "quant_type": about.get("bnb_4bit_quant_type", "fp4"),
        "double_quant": bool(about.get("bnb_4bit_use_double_quant", False)),
    }


def _without_weights(directory: Path, dtype: torch.dtype, name: str | Path) -> Any:
    """The model with parameters on the meta device and real buffers, which no file holds."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with in_one_sentence(name), init_empty_weights(include_buffers=False):
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        about = config.to_dict()
        if about.pop("quantization_config", None):
            config = type(config).from_dict(about)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if (directory / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    model.tie_weights()
    return model.requires_grad_(False)


# --- where tensors are ---------------------------------------------------------------------------------------------

Place = tuple[Path, str]  # a file and a tensor's name in it


def _places(directory: Path, model: Any) -> dict[str, Place]:
    """Where each tensor is, by its name in the model. Only headers are read."""
    found: dict[str, Place] = {}
    files = weight_files(directory)
    names = {path: list(open_weights(path).keys()) for path in files}
    prefixes = foreign_prefixes(name for each in names.values() for name in each)
    say_prefixes(directory, prefixes)
    outer, own = f"{model.base_model_prefix}.", set(model.state_dict())
    for path, each in names.items():
        for name in each:
            plain = without_prefixes(name, prefixes)
            if plain.endswith(COMPUTED):
                continue
            weight = plain.partition(".weight")[0] + ".weight" if ".weight." in plain else plain
            found[plain if weight in own or outer + weight not in own else outer + plain] = (path, name)
    return found


def _read(place: Place) -> Tensor:
    """One tensor, copied out of a mapping of its own: when that is closed, the file's pages leave the process."""
    path, name = place
    return open_weights(path).get_tensor(name).clone()


def _state_of(places: dict[str, Place], layer: str) -> dict[str, Tensor]:
    """The tensors of a stored 4-bit weight, by the ends of their names."""
    start = f"{layer}.weight"
    ends = [name.removeprefix(start) for name in places if name == start or name.startswith(f"{start}.")]
    return {end: _read(places[start + end]) for end in ends}


def _matrix_shape(module: Any) -> tuple[int, ...]:
    """(out, in)."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if isinstance(module, Conv1D) else shape


def _twins(model: Any, name: str) -> list[str]:
    """A parameter's name and those that it is tied to: a file may have any of them."""
    tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", {}))
    return [name, *(a for a, b in tied.items() if b == name), *(b for a, b in tied.items() if a == name)]


def _missing(model: Any, places: dict[str, Place]) -> list[str]:
    """The parameters that no file has under any of their names."""
    return [name for name, _ in model.named_parameters() if not any(twin in places for twin in _twins(model, name))]


def _check_complete(directory: Path, model: Any, places: dict[str, Place], stored: dict[str, nn.Module]) -> None:
    """Raise CourseError for the first tensor that is missing or of another shape, before anything is read."""
    if missing := _missing(model, places):
        raise CourseError(
            f"{directory} is not complete: {len(missing)} tensors are missing, the first {missing[0]}. Save or "
            "download the model again."
        )
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") in stored:
            continue  # its codes are checked against their state
        path, there = next(places[twin] for twin in _twins(model, name) if twin in places)
        _check_shape(name, tuple(open_weights(path).get_slice(there).get_shape()), tuple(parameter.shape))


def _check_shape(name: str, here: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(here) != tuple(wanted):
        raise CourseError(f"{name} has shape {tuple(here)} in the file and {tuple(wanted)} by config.json.")


def _fill(model: Any, places: dict[str, Place], dtype: torch.dtype, later: set[str]) -> None:
    """Give the parameters their numbers, but those named in `later`.

    The largest is first: its copy stands beside its pages in the file, while little else is in memory.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name not in later}
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        place = next(places[twin] for twin in _twins(model, name) if twin in places)
        module, _, last = name.rpartition(".")
        filled = nn.Parameter(_read(place).to(dtype), requires_grad=False)
        setattr(model.get_submodule(module), last, filled)


# --- writing -------------------------------------------------------------------------------------------------------


def save_quantized(
    model: Any, directory: Path | str, tokenizer: ModelTokenizer | None = None, overwrite: bool = False
) -> Path:
    """Write a 4-bit model in the layout of transformers and bitsandbytes, whole or not at all.

    Args:
        model: a transformers model with `Linear4bit` layers and no adapter.
        directory: a new one, or one to write over.
        tokenizer: its files go beside the weights.
        overwrite: whether a model that is there may be replaced.

    Returns:
        The path of model.safetensors.

    Raises:
        CourseError: the model is not in 4 bits, has an adapter on it or a kind that bitsandbytes lacks, or the
            directory holds a model already. Nothing is written then.
    """
    directory = Path(directory)
    if not overwrite and any((directory / name).exists() for name in (CONFIG, WEIGHTS, INDEX)):
        raise CourseError(f"{directory} holds a model already: choose another directory, or pass overwrite=True.")
    tensors = dict(_tensors(model))
    config = model.config.to_dict() | {"quantization_config": _quantization_config(model)}
    config |= {"architectures": [type(model).__name__], "model_type": model.config.model_type}
    config.pop("_name_or_path", None)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as staging:
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(staging)
        save_file(tensors, Path(staging, WEIGHTS), metadata={"format": "pt"})
        Path(staging, CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        apply_umask(Path(staging))
        move_model(Path(staging), directory)
    return directory / WEIGHTS


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file by its name; tied ones once."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    if not layers:
        theirs = any(is_quantized(module) for module in model.modules())
        what = (
            "is quantised by bitsandbytes: use its save_pretrained"
            if theirs
            else "is not in 4 bits: use save_pretrained"
        )
        raise CourseError(f"This model {what}, or load it with load_quantized.")
    # Merged or not, its names would be "q_proj.base.weight", which no reader knows.
    if adapted := [name for name, module in model.named_modules() if hasattr(module, "merged")]:
        raise CourseError(
            f"{adapted[0]} is under an adapter: save the adapter by itself with save_adapter, or merge and unload it "
            "before saving the model."
        )
    for name, layer in layers.items():
        for end, tensor in to_state(layer.quantized).items():
            yield f"{name}.weight{end}", tensor
    for name, parameter in model.named_parameters():
        yield name, parameter.detach().cpu().contiguous()


def _quantization_config(model: Any) -> dict[str, Any]:
    """What transformers' BitsAndBytesConfig says in config.json."""
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    kinds = {(layer.quant_type, layer.nested_absmax is not None, layer.compute_dtype) for layer in layers}
    if len(kinds) > 1:
        raise CourseError(f"The layers are quantised in {len(kinds)} ways, and config.json can name one: {kinds}.")
    quant_type, double_quant, compute_dtype = kinds.pop()
    plain = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
        "bnb_4bit_compute_dtype": str(compute_dtype or layers[0].dtype).removeprefix("torch."),
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": plain or None,
        "llm_int8_threshold": 6.0,
    }
