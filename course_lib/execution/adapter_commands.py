"""`course merge`, `course adapters` and `course compare`: what can be done with a trained adapter."""

import argparse
import json
import math
import os
import re
from pathlib import Path

from course_lib.errors import CourseError

MARK = "<!-- written by course compare -->"
DEFAULT_PROMPT = "Once upon a time in"


def add_parser(subparsers) -> None:
    """Register the three commands (cheap: nothing heavy is imported before one runs)."""
    _add_merge(subparsers)
    _add_adapters(subparsers)
    _add_compare(subparsers)


def _add_merge(subparsers) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="fold an adapter into its base: a plain model, as fast as the base",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Fold an adapter into its base's weights; save a plain model, which transformers loads by itself.

  course merge --adapter runs/notes --output merged
  course merge --base gpt2 --adapter runs/lora --output merged --dtype bfloat16

The sum is taken in float32 and rounded once. In bfloat16 a weight keeps 8 bits, and a small change may
be lost in the rounding: the report says how large both are. An adapter trained on a 4-bit base (qlora)
is merged into the base at full precision, which is not quite what it was trained on.""",
    )
    parser.add_argument("--base", metavar="NAME", help="the model (default: the one the adapter names)")
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="the adapter's folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder for the model")
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="of base and result (float32)")
    parser.set_defaults(run=run_merge)


def _add_adapters(subparsers) -> None:
    parser = subparsers.add_parser("adapters", help="list adapters, or look into one")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    every = actions.add_parser(
        "list",
        help="all adapters below a folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="All adapters below a folder, ours and PEFT's: kind, size, base.\n\n  course adapters list runs",
    )
    every.add_argument("folder", type=Path, nargs="?", default=Path(), help="where to look (here)")
    every.set_defaults(run=run_list)
    one = actions.add_parser(
        "info",
        help="one adapter's settings and layers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="An adapter's settings, and for each layer its shapes and how large its change is: the Frobenius\n"
        "norm of scaling * B A for LoRA, the root mean square of the angles for a butterfly.\n\n"
        "  course adapters info runs/notes",
    )
    one.add_argument("folder", type=Path, help="the adapter's folder")
    one.set_defaults(run=run_info)
    export = actions.add_parser(
        "export",
        help="a checkpoint of a run as an adapter",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A checkpoint that a run has kept, in the layout that compare, merge and PEFT read: look at an\n"
        "earlier one where the last has learnt too much.\n\n"
        "  course adapters export runs/notes/checkpoints/best --output runs/notes_best\n"
        "  course adapters export runs/notes/checkpoints/step_000250 --output runs/notes_250",
    )
    export.add_argument("checkpoint", type=Path, help="a folder below the run's checkpoints")
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder for the adapter")
    export.set_defaults(run=run_export)


def _add_compare(subparsers) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="what a base and its adapters say to the same prompts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Continue prompts with the base and with each adapter, and show them together.

  course compare --adapter runs/notes --samples 5 --temperature 0.8
  course compare --adapter runs/notes --adapter runs/lora --prompt "The storm" --prompt "At dawn"
  course compare --adapter runs/chat --chat --prompts questions.txt --html comparison.html

All models draw with the same random numbers: what differs is due to the weights. The same command
prints the same text.""",
    )
    parser.add_argument("--base", metavar="NAME", help="the model (default: the one the first adapter names)")
    parser.add_argument("--adapter", type=Path, action="append", required=True, metavar="DIR", help="may be repeated")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be repeated")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file, one prompt a line")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="continuations of each prompt (5)")
    parser.add_argument("--max-new-tokens", type=int, default=40, metavar="N", help="tokens of a continuation (40)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token, one sample (0.8)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this share (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--chat", action="store_true", help="give prompts in the model's chat template")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page, too")
    parser.add_argument("--force", action="store_true", help="let --html replace a file that is no such page")
    parser.set_defaults(run=run_compare)


# --- merge -----------------------------------------------------------------------------------------------------------


def run_merge(args: argparse.Namespace) -> int:
    """Merge, save, print the rounding report."""
    from course_lib.adapters import load_adapter, merge, save_merged

    base = args.base or named_base(args.adapter)
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise CourseError(f"{args.output} exists and is not empty: choose another --output.")
    model, tokenizer = _load(base, args.dtype)
    print(f"{base}: {sum(p.numel() for p in model.parameters()):,} parameters in {args.dtype}", flush=True)
    load_adapter(model, args.adapter)
    report = merge(model)
    save_merged(model, args.output)
    tokenizer.save_pretrained(args.output)
    print(f"merged {args.adapter} into {report.layers} layers of {base}")
    print(f"  mean change of a weight   {report.mean_change:.3e}")
    print(f"  mean rounding error       {report.mean_error:.3e} ({_share(report)} of the change)")
    print(f"  largest rounding error    {report.max_error:.3e}")
    if (_run_of(args.adapter) or {}).get("mode") == "qlora":
        print("The adapter was trained on this base in 4 bits: it corrects errors that the full base does not have.")
    print(f"saved in {args.output}: AutoModelForCausalLM.from_pretrained({str(args.output)!r}) loads it")
    return 0


def _share(report) -> str:
    return f"{report.mean_error / report.mean_change:.2%}" if report.mean_change else "there is none"


def _load(name: str, dtype: str = "float32", device: str = "cpu"):
    """(model, tokenizer); a base without a tokenizer of its own is refused in a sentence."""
    from course_lib.models.pretrained import load

    try:
        return load(name, dtype, device)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CourseError(f"The base {name} could not be loaded: {reason}") from error


def named_base(folder: Path) -> str:
    """The base that an adapter was trained on, as its file says."""
    name = adapter_config(folder).get("base_model_name_or_path")
    if not name:
        raise CourseError(f"{folder} does not say which model it belongs to: give --base.")
    return name


def adapter_config(folder: Path) -> dict:
    """adapter_config.json of `folder`. CourseError where there is none, or no such thing."""
    path = Path(folder) / "adapter_config.json"
    if not path.is_file():
        found = "a whole model, which needs no base" if (Path(folder) / "config.json").is_file() else "no adapter"
        raise CourseError(f"{folder} holds {found}: there is no adapter_config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise CourseError(f"{path} is damaged: it holds no settings.")
    return config


def _run_of(folder: Path) -> dict | None:
    """The settings of the run that made the adapter, where it lies in the run's folder."""
    try:
        return json.loads((folder / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- list and info ---------------------------------------------------------------------------------------------------


def run_list(args: argparse.Namespace) -> int:
    """One line an adapter; a damaged one is named with its reason."""
    if not args.folder.is_dir():
        raise CourseError(f"There is no folder {args.folder}.")
    found = sorted(path.parent for path in args.folder.rglob("adapter_config.json"))
    if not found:
        raise CourseError(f"There is no adapter below {args.folder.resolve().name or args.folder}.")
    rows = [("adapter", "kind", "targets", "base", "parameters", "bytes"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = zip(row, widths, (False, False, False, False, True, True), strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())
    return 0


def _row(folder: Path) -> tuple[str, ...]:
    try:
        config, shapes = adapter_config(folder), _shapes(folder)
    except CourseError as problem:
        return (str(folder), "damaged", str(problem), "", "", "")
    count = sum(_size(shape) for shape in shapes.values())
    size = (folder / "adapter_model.safetensors").stat().st_size
    base = str(config.get("base_model_name_or_path") or "not said")
    return (str(folder), kind(config), _targets(config), base, f"{count:,}", f"{size:,}")


def kind(config: dict) -> str:
    """An adapter's method and settings in a few words: "lora rank 8 alpha 16"."""
    name = str(config.get("peft_type", "unknown")).lower()
    if name == "lora":
        rslora = " rslora" if config.get("use_rslora") else ""
        return f"lora rank {config.get('r', 8)} alpha {config.get('lora_alpha', 8):g}{rslora}"
    if name == "butterfly":
        block = f" block {config['block_size']}" if config.get("block_size") else ""
        return f"butterfly {config.get('stages')} stages{block}"
    return name


def _targets(config: dict) -> str:
    targets = config.get("target_modules") or []
    names = [targets] if isinstance(targets, str) else sorted(targets)
    return " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor shapes from the file's header: the tensors themselves are not read."""
    from safetensors import SafetensorError, safe_open

    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise CourseError(f"{path.name}: {error}") from error


def _size(shape: list[int]) -> int:
    return math.prod(shape)


def run_info(args: argparse.Namespace) -> int:
    """Settings, then a line a layer."""
    from safetensors.torch import load_file

    config, shapes = adapter_config(args.folder), _shapes(args.folder)
    count = sum(_size(shape) for shape in shapes.values())
    print(f"{args.folder}: {kind(config)}, {count:,} parameters")
    print(f"  base     {config.get('base_model_name_or_path') or 'not said'}")
    print(f"  targets  {_targets(config)}")
    if run := _run_of(args.folder):
        print(f"  trained  {run['mode']} on {run['dataset']}, learning rate {run['lr']:g}, seed {run['seed']}")
    lines = layer_lines(config, load_file(args.folder / "adapter_model.safetensors"))
    in_order = sorted(lines, key=lambda name: [part.zfill(6) for part in name.split(".")])  # 2 before 10
    for layer, text in ((layer, lines[layer]) for layer in in_order):
        print(f"  {layer}: {text}")
    return 0


def layer_lines(config: dict, tensors: dict) -> dict[str, str]:
    """For each layer its shapes and the size of its change: the Frobenius norm of s B A, or the angles' RMS."""
    from course_lib.adapters import lora_scaling

    lines = {}
    for key, tensor in tensors.items():
        layer = key.removeprefix("base_model.model.")
        if key.endswith(".lora_A.weight"):
            B = tensors[key.replace(".lora_A.", ".lora_B.")].float()
            scaling = lora_scaling(config.get("lora_alpha", 8), config.get("r", 8), config.get("use_rslora", False))
            norm = scaling * (B @ tensor.float()).norm().item()
            sizes = f"{B.shape[0]} x {tensor.shape[1]}"
            lines[layer.removesuffix(".lora_A.weight")] = f"{sizes}, +{tensor.numel() + B.numel():,}, change {norm:.4g}"
        elif key.endswith(".butterfly.angles"):
            rms = tensor.float().square().mean().sqrt().item()
            lines[layer.removesuffix(".butterfly.angles")] = f"+{tensor.numel():,} angles, RMS {rms:.4g} rad"
    return lines


def run_export(args: argparse.Namespace) -> int:
    """Rename the checkpoint's tensors as PEFT does, and write the settings of its run beside them."""
    from safetensors.torch import load_file, save_file

    run = _run_of(args.checkpoint.parent.parent)
    if run is None or not (args.checkpoint / "weights.safetensors").is_file():
        raise CourseError(f"{args.checkpoint} is no checkpoint in the folder of a run of `course train`.")
    if run["mode"] == "full":
        raise CourseError(f"{args.checkpoint} holds a whole model's weights, and no adapter.")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise CourseError(f"{args.output} exists and is not empty: choose another --output.")
    tensors = load_file(args.checkpoint / "weights.safetensors")
    args.output.mkdir(parents=True, exist_ok=True)
    save_file({peft_name(key): tensor for key, tensor in tensors.items()}, args.output / "adapter_model.safetensors")
    config = json.dumps(exported_config(run, args.checkpoint.parent.parent), indent=2)
    (args.output / "adapter_config.json").write_text(config)
    print(f"{args.output}: {sum(tensor.numel() for tensor in tensors.values()):,} parameters of {args.checkpoint.name}")
    return 0


def peft_name(name: str) -> str:
    """A tensor's name in a checkpoint to that in an adapter's file."""
    name = re.sub(r"\.adapters\.default\.([AB])$", r".lora_\1.weight", name)
    return "base_model.model." + name.replace(".rotation.angles", ".butterfly.angles")


def exported_config(run: dict, folder: Path) -> dict:
    """adapter_config.json for the settings of a run in `folder`."""
    lora = run["mode"] in ("lora", "qlora")
    base = folder / "base"
    method = (
        {"peft_type": "LORA", "r": run["rank"], "lora_alpha": run["alpha"], "lora_dropout": run["dropout"]}
        | {"use_rslora": run["rslora"], "fan_in_fan_out": "c_attn" in run["targets"], "bias": "none"}
        if lora
        else {"peft_type": "BUTTERFLY", "stages": run["stages"], "block_size": run["block_size"]}
    )
    return method | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base) if base.is_dir() else run["model"],
        "target_modules": run["targets"],
        "inference_mode": True,
    }


# --- compare ---------------------------------------------------------------------------------------------------------


def run_compare(args: argparse.Namespace) -> int:
    """Generate with the base and each adapter, print them one after another and side by side, write the page."""
    prompts = read_prompts(args)
    if args.samples < 1 or args.max_new_tokens < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise CourseError("--samples and --max-new-tokens are at least 1, --temperature 0 or more, --top-p in (0, 1].")
    if args.html and args.html.exists() and not args.force and MARK not in _beginning(args.html):
        raise CourseError(f"{args.html} exists and is not of this command: choose another name, or --force.")
    samples = 1 if args.temperature == 0 else args.samples
    base = args.base or named_base(args.adapter[0])
    comparison = compare(base, args.adapter, prompts, samples, args)
    print(as_text(comparison, [(p, i + 1) for p in prompts for i in range(samples)]))
    if args.html:
        write_page(args.html, comparison, base)
        print(f"The comparison is in {args.html}")
    return 0


def _beginning(path: Path) -> str:
    return path.read_bytes()[:500].decode("utf-8", errors="replace")


def read_prompts(args: argparse.Namespace) -> list[str]:
    """From --prompt and the lines of --prompts; one of our own where neither is given."""
    prompts = list(args.prompt)
    if args.prompts:
        try:
            prompts += [line for line in args.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise CourseError(f"The prompts in {args.prompts} cannot be read: {error}") from error
        if not prompts:
            raise CourseError(f"{args.prompts} has no line with a prompt.")
    if not all(prompt.strip() for prompt in prompts):
        raise CourseError("A --prompt is empty: give it a word to go on from.")
    return prompts or [DEFAULT_PROMPT]


def compare(base: str, adapters: list[Path], prompts: list[str], samples: int, args: argparse.Namespace):
    """A Comparison of the base and each adapter, loaded once and switched; its rows are prompt by prompt the samples.

    Every model continues prompt i with the seed args.seed + i.
    """
    from course_lib.adapters import disable_adapters, load_adapter, set_adapter
    from course_lib.alignment.report import Comparison

    names = _names(adapters)
    # What is no adapter is refused before the base is loaded. A base holds many LoRA adapters, but one butterfly.
    turned = {name for name, folder in names.items() if adapter_config(folder).get("peft_type") == "BUTTERFLY"}
    model, tokenizer = _load(base, device=args.device)
    for name in names.keys() - turned:
        load_adapter(model, names[name], name)
    with disable_adapters(model):
        completions = {"base": _continue(model, tokenizer, prompts, samples, args)}
    for name, folder in names.items():
        load_adapter(model, folder) if name in turned else set_adapter(model, name)
        completions[name] = _continue(model, tokenizer, prompts, samples, args)
    return Comparison([prompt for prompt in prompts for _ in range(samples)], completions)


def _names(adapters: list[Path]) -> dict[str, Path]:
    """A name for each adapter from its folder's, told apart by numbers where two are alike."""
    names: dict[str, Path] = {}
    for folder in adapters:
        stem = re.sub(r"[^\w-]", "_", folder.resolve().name) or "adapter"
        stem = f"{stem}_adapter" if stem in ("base", "default") else stem
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = folder
    return names


def _continue(model, tokenizer, prompts: list[str], samples: int, args: argparse.Namespace) -> list[str]:
    from course_lib.data import chat_text
    from course_lib.inference import complete

    if args.chat and not getattr(tokenizer, "chat_template", None):
        raise CourseError("--chat: this model's tokenizer has no chat template.")
    texts = []
    for number, prompt in enumerate(prompts):
        given = chat_text(tokenizer, [{"role": "user", "content": prompt}], True) if args.chat else prompt
        options = {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed + number}
        texts += complete(model, tokenizer, [given] * samples, args.max_new_tokens, **options)
    return texts


def as_text(comparison, labels: list[tuple[str, int]]) -> str:
    """One part a model, then all of them under each prompt."""
    rule, blocks = "=" * 72, []
    for name, texts in comparison.completions.items():
        title = "BASE MODEL" if name == "base" else f"ADAPTER {name}"
        blocks.append(f"{rule}\n{title}\n{rule}")
        blocks += [
            f"[Sample {n}] {_plain(prompt + _after(text))}" for (prompt, n), text in zip(labels, texts, strict=True)
        ]
    blocks.append(f"{rule}\nSIDE BY SIDE\n{rule}")
    for row, (prompt, number) in enumerate(labels):
        sides = [f"  {name}:\n    {_indented(texts[row])}" for name, texts in comparison.completions.items()]
        blocks.append("\n".join([f"[Sample {number}] Prompt: {_plain(prompt)}", *sides]))
    return "\n\n".join(blocks)


def _after(text: str) -> str:
    return text if text[:1].isspace() or not text else f" | {text}"


def _indented(text: str) -> str:
    return _plain(text.strip()).replace("\n", "\n    ")


def _plain(text: str) -> str:
    """Control characters made visible: a model's output must not steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


def write_page(path: Path, comparison, base: str) -> None:
    """One page that needs no other file; all text of models and users is escaped."""
    from html import escape

    style = (
        "body{font-family:system-ui,sans-serif;margin:2rem;line-height:1.4}table{border-collapse:collapse;width:100%}"
        "th,td{border:1px solid #bbb;padding:.5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
        "th{background:#f2f2f2}@media(max-width:40rem){body{margin:.5rem}}"
    )
    page = f"""<!DOCTYPE html>
{MARK}
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Base and adapters</title><style>{style}</style></head>
<body><h1>{escape(base)} and its adapters</h1>
{comparison._repr_html_()}
</body></html>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
