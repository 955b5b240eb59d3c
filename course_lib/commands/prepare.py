"""`course prepare`, which `course data prepare` is too: text files to token shards."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from course_lib.data.tokenizers import Tokenizer


def add_parser(subparsers: Subparsers) -> None:
    """Register `prepare`, which `course data prepare` and `course prepare` both are."""
    prepare = subparsers.add_parser(
        "prepare",
        help="text files to train and val token shards",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Tokenise text files into train_00000.npy, ... and val_00000.npy, ... in a folder.

The first 90 % of the tokens are for training. Training reads the shards from disk as it goes, so
a corpus may be larger than memory. The same command again changes nothing.

  course data prepare --input notes.txt letters.txt --output my_data
  course data prepare --input book.txt --output my_data --train-ratio 0.95 --tokenizer gpt2
  course data prepare --input tinystories --output stories --documents 10000""",
    )
    prepare.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="text files; or the training part of tinystories, wikitext2, or a folder with wiki.train.raw or .tokens",
    )
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder for the shards")
    prepare.add_argument(
        "--train-ratio", type=float, default=0.9, metavar="SHARE", help="of the tokens, for training (0.9)"
    )
    prepare.add_argument(
        "--tokenizer", metavar="NAME", help="a model's, by name or folder; or a saved BPETokenizer (SmolLM2's)"
    )
    prepare.add_argument(
        "--shard-tokens", type=int, default=100_000_000, metavar="N", help="at most so many in a file (100000000)"
    )
    prepare.add_argument("--documents", type=int, metavar="N", help="of a corpus or folder, the first N (all)")
    prepare.add_argument("--force", action="store_true", help="replace other shards that are in the folder")
    prepare.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> int:
    """Tokenise with a progress bar on the terminal."""
    import tempfile

    from tqdm import tqdm

    from course_lib.data.shards import prepare
    from course_lib.models.pretrained import DEFAULT, load_tokenizer

    if args.documents is not None and args.documents < 1:
        raise CourseError(f"--documents {args.documents}: at least 1.")
    tokenizer = load_tokenizer(args.tokenizer or DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        inputs = [_text_file(name, Path(folder), args.documents, tokenizer) for name in args.input]
        size = sum(path.stat().st_size for path in inputs if path.is_file())
        with tqdm(total=size, unit="B", unit_scale=True, desc="tokenising", disable=not sys.stderr.isatty()) as bar:
            prepare(
                inputs,
                args.output,
                tokenizer,
                args.train_ratio,
                shard_tokens=args.shard_tokens,
                force=args.force,
                say=tqdm.write,
                progress=bar.update,
            )
    return 0


def _text_file(name: str, folder: Path, documents: int | None, tokenizer: "Tokenizer") -> Path:
    """The text file `name`, or one in `folder` with a corpus's documents and end-of-text tokens between them."""
    import tempfile

    from course_lib.data.corpora import NAMED, read_corpus

    path = Path(name).expanduser()
    if not path.is_dir() and (path.exists() or name not in NAMED):
        if documents:
            raise CourseError(f"--documents counts the documents of a corpus or folder, and {name} is neither.")
        return path
    text = Path(tempfile.mkdtemp(dir=folder)) / f"{path.name}.txt"  # two folders may have one name
    between = getattr(tokenizer, "eos_token", None) or "\n\n"
    text.write_text(between.join(read_corpus(name, limit=documents)), encoding="utf-8")
    return text
