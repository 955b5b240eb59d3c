"""The model of a training run: its shape without weights, the base with them, and the adapter on it."""

import importlib.util
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.adapters import inject_butterfly, inject_lora
from course_lib.adapters.guide import default_targets
from course_lib.data.shards import len_of
from course_lib.data.tokenizers import Tokenizer, is_model_tokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.finetuning.folder import BASE
from course_lib.finetuning.naming import is_scratch, needs_no_files
from course_lib.finetuning.settings import Settings
from course_lib.finetuning.weights import load_state_dict
from course_lib.models.config import CONFIGS, DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.devices import choose_device
from course_lib.models.folder import stage_of
from course_lib.models.huggingface import config_settings, load_decoder, save_decoder
from course_lib.models.linear_layers import layer_sizes, select_layers
from course_lib.models.pretrained import in_one_sentence, load_model, load_tokenizer, resolve
from course_lib.options import filled
from course_lib.quantization import load_dequantized, load_quantized, stored_quantization
from course_lib.seeding import seed_everything
from course_lib.training.master_weights import round_weights
from course_lib.vocabulary import HALF_DTYPES


def scratch_config(settings: Settings, tokenizer: Tokenizer) -> DecoderConfig:
    """The named shape with the tokenizer's vocabulary.

    Args:
        settings: name the shape.
        tokenizer: its length becomes the vocabulary's size.

    Returns:
        The decoder's configuration.
    """
    return settings.own_shape(replace(CONFIGS[settings.model], vocab_size=len_of(tokenizer)))


def shape_of(settings: Settings, tokenizer: Tokenizer) -> Any:
    """The transformers model without weights, on the meta device: shapes and names do not cost memory.

    Args:
        settings: name the model and its dtype.
        tokenizer: decides the vocabulary of a model that is trained from scratch.

    Returns:
        The model.

    Raises:
        CourseError: there is no such model, or it does not continue text.
    """
    if needs_no_files(settings):
        # With a file of weights the vocabulary is that of the named shape.
        ours = CONFIGS[settings.model] if settings.weights else scratch_config(settings, tokenizer)
        return without_weights(transformers_config(ours), settings.dtype, settings.model)
    model = without_weights(resolve(settings.model), settings.dtype, settings.model)
    refuse_other_base(settings)
    return model


def refuse_other_base(settings: Settings) -> None:
    """Check that a base that is saved in 4 bits is one for this run.

    Args:
        settings: name the model and the mode; mode qlora also the 4 bits.

    Raises:
        CourseError: mode full cannot train 4 bits, or mode qlora would get others than it asks for.
    """
    if settings.mode not in ("full", "qlora"):
        return
    stored = stored_quantization(resolve(settings.model))
    if stored is None:
        return
    if settings.mode == "full":
        raise CourseError(
            f"{settings.model} is saved in 4 bits ({stored['quant_type']}), which cannot be trained: give --mode qlora "
            "to train an adapter on them, or --model with the float model."
        )
    if stored != {"quant_type": settings.quant_type, "double_quant": settings.double_quant}:
        flag = "--double-quant" if stored["double_quant"] else "--no-double-quant"
        raise CourseError(
            f"{settings.model} is saved in 4 bits already: give --quant-type {stored['quant_type']} {flag}, or --model "
            "with the float model."
        )


def transformers_config(config: DecoderConfig) -> Any:
    """The config of the same model in transformers, without tokens that begin or end a text."""
    from transformers import AutoConfig

    about = config_settings(config) | {"bos_token_id": None, "eos_token_id": None}
    return AutoConfig.for_model(about.pop("model_type"), **about)


def without_weights(config: Any, dtype: str, name: str) -> Any:
    """A transformers model on the meta device.

    Args:
        config: transformers' config, or a folder with a config.json.
        dtype: of the weights that it does not have.
        name: the model's name, for an error.

    Returns:
        The model.

    Raises:
        CourseError: the config cannot be read, or the model does not continue text.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"), in_one_sentence(name):
        if isinstance(config, Path):
            config = AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def known_shape(name: str, dtype: str = "float32") -> Any:
    """The shape of any model that has a name: for arithmetic, so weights need not be anywhere.

    Args:
        name: a folder with a config.json, a shape of `CONFIGS` or `PUBLISHED`, or what `pretrained.resolve` finds.
        dtype: of the weights that it does not have.

    Returns:
        A transformers model on the meta device.

    Raises:
        CourseError: there is no such model.
    """
    from course_lib.models.published import PUBLISHED, known_shapes

    lower = name.lower()
    if Path(name).is_dir():
        if not Path(name, "config.json").is_file():
            raise CourseError(f"{name} holds no config.json: `course memory` needs one to know the model's shape.")
        return without_weights(Path(name), dtype, name)
    if lower in PUBLISHED:
        return without_weights(transformers_config(PUBLISHED[lower].config), dtype, name)
    if lower in CONFIGS:
        return without_weights(transformers_config(CONFIGS[lower]), dtype, name)
    try:
        return without_weights(resolve(name), dtype, name)
    except CourseError as error:
        raise CourseError(f"{error} {known_shapes()}") from error


def with_adapter_shape(settings: Settings, model: nn.Module) -> Settings:
    """Fill in what depends on the model's layers: the targets and, for butterfly-block, the block's size.

    Args:
        settings: where they name targets or a block size, those stay.
        model: its shapes suffice.

    Returns:
        The settings. The block is 256, or the largest power of two below that divides every target's input.
    """
    if settings.mode == "full":
        return settings
    targets = tuple(settings.target_modules or default_targets(model))
    settings = replace(settings, target_modules=targets)
    if settings.mode == "butterfly-block" and settings.butterfly_block_size is None:
        widths = [layer_sizes(layer)[1] for layer in select_layers(model, targets).values()]
        settings = replace(settings, butterfly_block_size=math.gcd(256, *widths))
    return settings


def adapt(model: nn.Module, settings: Settings) -> nn.Module:
    """Freeze the model and put the adapter on, in place; mode full trains everything.

    Args:
        model: the base.
        settings: complete, with the adapter's shape.

    Returns:
        The same model.
    """
    s = settings
    if s.mode == "full":
        return model.requires_grad_(True)
    if s.mode in ("lora", "qlora"):
        inject_lora(model, filled(s.target_modules), s.rank, s.alpha, s.lora_dropout, s.use_rslora)
    else:
        inject_butterfly(model, filled(s.target_modules), filled(s.butterfly_stages), s.butterfly_block_size)
    return model


def has_own_base(settings: Settings) -> bool:
    """Whether the base is made for the run: random weights, or those of --weights."""
    return is_scratch(settings) or settings.weights is not None


def make_base(settings: Settings, folder: Path, tokenizer: Any) -> None:
    """Make a base that no name can load: random weights, or those of a file. It is made once for a run.

    Args:
        settings: say which; any other base is left to `load_base`.
        folder: the run's folder, which keeps the base.
        tokenizer: saved beside the weights where it can be.
    """
    if not has_own_base(settings) or (folder / BASE / "config.json").is_file():
        return
    if settings.weights is not None:
        model = shape_of(settings, tokenizer).to_empty(device="cpu")
        load_state_dict(model, settings.weights)
        save_base(model, tokenizer, folder / BASE)
        return
    seed_everything(settings.seed)
    files = tokenizer if is_model_tokenizer(tokenizer) else None
    save_decoder(Decoder(scratch_config(settings, tokenizer)), folder / BASE, files, overwrite=True)


def save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model in Hugging Face's layout, whole or not at all.

    Args:
        model: a transformers model.
        tokenizer: saved beside the weights where it can be.
        folder: the new folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=folder.parent) as temporary:
        staging = Path(temporary, BASE)
        model.save_pretrained(staging)
        if is_model_tokenizer(tokenizer):
            tokenizer.save_pretrained(staging)
        os.replace(apply_umask(staging), folder)


def base_name(settings: Settings, folder: Path) -> str:
    """What the run's base is loaded by.

    Args:
        settings: the run's.
        folder: the run's folder.

    Returns:
        The model's name, or the folder of the base that `make_base` made.
    """
    return str(folder / BASE) if has_own_base(settings) else settings.model


def load_base(settings: Settings, folder: Path) -> nn.Module:
    """Load the base with its weights on the device.

    Args:
        settings: name the model, its dtype and the device; mode qlora loads it in 4 bits. Full training in 16 bits
            takes the float32 numbers of the file as master weights.
        folder: the run's folder.

    Returns:
        The model in evaluation mode.
    """
    name, device = base_name(settings, folder), choose_device(settings.device)
    if is_own_decoder(settings, name):
        return _load_own(settings, name, device)
    if settings.mode == "qlora" and settings.backend == "ours":
        return load_quantized(
            name,
            settings.quant_type,
            double_quant=filled(settings.double_quant),
            dtype=settings.dtype,
            device=device,
        )
    options: dict[str, Any] = {"device_map": {"": device}}
    if settings.mode == "qlora":
        options["quantization_config"] = _bitsandbytes_config(settings)
    rounded = settings.mode == "full" and settings.dtype in HALF_DTYPES
    model = load_model(name, "float32" if rounded else settings.dtype, **options)
    if rounded:
        round_weights(model, getattr(torch, settings.dtype))
    return model.eval()


def is_own_decoder(settings: Settings, name: str) -> bool:
    """Whether the model is our own decoder, whose training steps are faster than those of transformers' class.

    Args:
        settings: the run's. Four bits are for models of transformers.
        name: of the base, see `base_name`.

    Returns:
        True for what `course pretrain` trains, and for a folder that one of our stages has written.
    """
    return settings.mode != "qlora" and (settings.STAGE == "pretrain" or stage_of(name) is not None)


def _load_own(settings: Settings, name: str, device: str) -> Decoder:
    """Our decoder of a folder; full training in 16 bits takes the float32 numbers of the file as master weights."""
    rounded = settings.mode == "full" and settings.dtype in HALF_DTYPES
    model = load_decoder(name, "float32" if rounded else settings.dtype, device)
    if rounded:
        round_weights(model, getattr(torch, settings.dtype))
    return model


def load_qlora_base(base: str, how: dict[str, Any], dtype: str, device: str = "cpu") -> tuple[Any, Any]:
    """The base that an adapter of mode qlora was trained on, as a plain model: see `load_dequantized`.

    Args:
        base: the model's name or folder.
        how: the base's quantisation, of `quantization_of_adapter`.
        dtype: of the result. The weights are quantised in the dtype of the training, as they were then.
        device: where the model goes.

    Returns:
        The model in evaluation mode, and its tokenizer.
    """
    tokenizer, model = load_tokenizer(base), load_dequantized(base, **how, device=device)
    for parameter in model.parameters():  # and no buffers: those of rotary positions are float32 in every model
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model, tokenizer


def _bitsandbytes_config(settings: Settings) -> Any:
    """How bitsandbytes is to hold the linear layers: in 4 bits, in blocks of 64 (arXiv:2305.14314)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CourseError("--backend bitsandbytes needs it: pip install bitsandbytes, or leave --backend out.")
    from transformers import BitsAndBytesConfig

    computed = getattr(torch, settings.autocast or settings.dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_use_double_quant=filled(settings.double_quant),
        bnb_4bit_compute_dtype=computed,
    )
