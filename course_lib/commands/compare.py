"""`course compare`: what a base and its adapters say to the same prompts."""

import argparse
import shutil
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers, add_device, printable, require_adapter, require_model
from course_lib.commands.generate import TEMPERATURE, TOP_P
from course_lib.errors import CourseError
from course_lib.files import write_whole

if TYPE_CHECKING:
    from course_lib.evaluation.comparison import Comparison

MARK = "<!-- written by course compare -->"
DEFAULT_PROMPT = "Once upon a time in"
NOTHING = "(white space alone)"


def add_parser(subparsers: Subparsers) -> None:
    """Register `course compare` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "compare",
        help="what a base and its adapters say to the same prompts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Continue prompts with the base and with each adapter, and show the texts in columns side by side.

  course compare --adapter runs/notes
  course compare --adapter runs/notes --samples 1 --temperature 0 --max-new-tokens 80
  course compare --adapter runs/notes --adapter runs/lora --prompt "The storm" --prompt "At dawn"
  course compare --adapter runs/notes --adapter runs/notes/checkpoints/step_000250
  course compare --adapter runs/chat --chat --prompts questions.txt --html comparison.html

All models draw with the same random numbers: what differs is due to the weights. The same command
prints the same text. The adapters have to belong to one base. One that was trained on a 4-bit base
(qlora) speaks on what those 4 bits stand for, as it was trained. Defaults are in brackets.""",
    )
    parser.add_argument(
        "--base", metavar="NAME", help="the model: a name or a folder (the one the first adapter names)"
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="an adapter's folder, a checkpoint of its run, or a .pt file of save_lora_weights; may be repeated",
    )
    told = f"what to continue; may be repeated ({DEFAULT_PROMPT!r})"
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=told)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with more prompts, one per line")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="continuations of each prompt (5)")
    parser.add_argument("--max-new-tokens", type=int, default=40, metavar="N", help="tokens of a continuation (40)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help=f"{TEMPERATURE}, so one sample (0.8)",
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="X", help=TOP_P)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (0)")
    parser.add_argument("--chat", action="store_true", help="put each prompt into the model's chat template")
    add_device(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page to this file, too")
    parser.add_argument(
        "--force", action="store_true", help="let --html replace a file that this command did not write"
    )
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    """Generate with the base and each adapter, print the texts side by side, write the page."""
    prompts = read_prompts(args)
    if args.samples < 1 or args.max_new_tokens < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise CourseError("--samples and --max-new-tokens are at least 1, --temperature 0 or more, --top-p in (0, 1].")
    if args.html and args.html.exists() and not args.force and MARK not in _beginning(args.html):
        raise CourseError(f"{args.html} exists, and this command did not write it. Choose another name, or --force.")
    args.adapter = [require_adapter(adapter) for adapter in args.adapter]
    require_model(args.base)
    from course_lib.adapters.trained_on import in_words
    from course_lib.evaluation.compare_adapters import Sampling, compare_adapters
    from course_lib.finetuning.export import as_adapter, common_base, other_bases, quantization_of_adapter
    from course_lib.models.devices import choose_device

    device = choose_device(args.device)
    samples = 1 if args.temperature == 0 else args.samples
    sampling = Sampling(samples, args.max_new_tokens, args.temperature, args.top_p, args.seed, args.chat)
    with tempfile.TemporaryDirectory() as scratch:
        adapters = [as_adapter(folder, Path(scratch, str(number))) for number, folder in enumerate(args.adapter)]
        given = dict(zip(map(str, args.adapter), adapters, strict=True))
        base = args.base or common_base(given)
        for name, other in other_bases(base, given).items():
            print(f"note: {name} was trained on {other}, and is put on {base} here", flush=True)
        quantized = {}
        for name, adapter in zip(args.adapter, adapters, strict=True):
            if how := quantization_of_adapter(name, adapter):
                quantized[adapter] = how
                print(f"note: {name} was trained on {in_words(how)}, and is put on what these 4 bits stand for")
        comparison = compare_adapters(base, adapters, prompts, sampling, device, quantized)
    print(as_text(comparison, base, samples, shutil.get_terminal_size((100, 24)).columns))
    for name, texts in comparison.completions.items():
        if name != "base" and texts == comparison.completions["base"]:
            print(f"\n{name} says what the base says: train it for more --steps, with a higher --lr or --rank.")
    if args.html:
        write_page(args.html, comparison, base)
        print(f"The comparison is in {args.html}")
    return 0


def _beginning(path: Path) -> str:
    return path.read_bytes()[:500].decode("utf-8", errors="replace")


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts from --prompt and the lines of --prompts; one of our own where neither is given."""
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


def as_text(comparison: "Comparison", base: str, samples: int, width: int) -> str:
    """Each prompt once, and under it every sample in columns: the base and its adapters.

    Args:
        comparison: its rows are, prompt by prompt, the samples.
        base: the model's name, for the first line.
        samples: how many of each prompt there are.
        width: of the terminal.

    Returns:
        Lines of text.
    """
    from course_lib.evaluation.comparison import side_by_side

    blocks = [f"{base} and its adapters, side by side"]
    for row, prompt in enumerate(comparison.prompts):
        if row % samples == 0:
            rule = "=" * min(width, 72)
            blocks.append(f"{rule}\nPrompt: {printable(prompt)}\n{rule}")
        texts = {name: printable(each[row].strip()) or NOTHING for name, each in comparison.completions.items()}
        blocks.append(f"[Sample {row % samples + 1}]\n{side_by_side(texts, width)}")
    return "\n\n".join(blocks)


def write_page(path: Path, comparison: "Comparison", base: str) -> None:
    """Write one page that needs no other file; all text of models and users is escaped.

    Args:
        path: the page's file.
        comparison: the table to show.
        base: the model's name, for the heading.
    """
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
    write_whole(path, page)
