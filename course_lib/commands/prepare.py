"""`course prepare` and `course data prepare`, one command under two names: text files to token shards."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from course_lib.data.tokenizers import Tokenizer


def add_parser(
    subparsers: Subparsers, help: str = "text files to token shards; `course data prepare` is the same command"
) -> None:
    """Register `prepare`.

    Args:
        subparsers: those of `course`, or those of `course data`.
        help: the line in their list, which says that the other name is the same command.
    """
    prepare = subparsers.add_parser(
        "prepare",
        help=help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Tokenise text files into train_00000.npy, ... and val_00000.npy, ... in a folder.

The first 90 % of the tokens are for training. Training reads the shards from disk as it goes, so
a corpus may be larger than memory. The same command again changes nothing. Records (.jsonl and the
like) need no preparing: course train reads them as they are. course prepare and course data prepare
are the same command.

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
        "--train-ratio", type=float, default=0.9, metavar="SHARE", help="share of the tokens for training (0.9)"
    )
    prepare.add_argument(
        "--tokenizer", metavar="NAME", help="a model by name or folder, or a saved BPETokenizer (SmolLM2)"
    )
    prepare.add_argument(
        "--shard-tokens", type=int, default=100_000_000, metavar="N", help="most tokens of a file (100000000)"
    )
    prepare.add_argument(
        "--documents", type=int, metavar="N", help="documents of a corpus or folder: the first N (all)"
    )
    prepare.add_argument("--force", action="store_true", help="replace other shards that are in the folder")
    prepare.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> int:
    """Tokenise with a progress bar on the terminal."""
    for name in args.input:  # before the tokenizer is loaded, so that a mistyped name is told at once
        check_input(name, args.documents)
    if not 0 < args.train_ratio < 1:
        raise CourseError(f"--train-ratio {args.train_ratio} is not possible. It has to be above 0 and below 1.")
    if args.shard_tokens < 1:
        raise CourseError(f"--shard-tokens {args.shard_tokens} is not possible. It has to be at least 1.")
    import tempfile

    from tqdm import tqdm

    from course_lib.data.shards import prepare
    from course_lib.models.pretrained import DEFAULT, load_tokenizer

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


def check_input(name: str, documents: int | None) -> None:
    """Refuse what is not plain text.

    Args:
        name: a file, a folder, or a corpus's name.
        documents: how many documents are to be taken, which only a corpus or folder has.

    Raises:
        CourseError: there is no such text, or it is of another kind.
    """
    from course_lib.data.corpora import NAMED
    from course_lib.data.rows import cure_for, kind_of, refuse_stand_in
    from course_lib.suggestions import similar_paths

    path = Path(name).expanduser()
    if documents is not None and documents < 1:
        raise CourseError(f"--documents {documents}: at least 1.")
    if path.is_dir() or (name in NAMED and not path.exists()):
        return
    if not path.exists():
        raise CourseError(f"There is no text file {name}.{similar_paths(path, NAMED)}")
    if kind_of(name):
        raise CourseError(
            f"{name} is a file of records, not plain text: course train --dataset {name} reads it as it is, and course "
            "data check says what is in it."
        )
    if cure := cure_for(name):
        raise CourseError(f"{name} is not plain text{cure}.")
    refuse_stand_in(path)
    if documents:
        raise CourseError(f"--documents counts the documents of a corpus or folder, and {name} is neither.")


def _text_file(name: str, folder: Path, documents: int | None, tokenizer: "Tokenizer") -> Path:
    """The text file `name`, or one in `folder` with a corpus's documents and end-of-text tokens between them."""
    import tempfile

    from course_lib.data.corpora import NAMED, read_corpus

    path = Path(name).expanduser()
    if not path.is_dir() and (path.exists() or name not in NAMED):
        return path
    text = Path(tempfile.mkdtemp(dir=folder)) / f"{path.name}.txt"  # two folders may have one name
    between = getattr(tokenizer, "eos_token", None) or "\n\n"
    text.write_text(between.join(read_corpus(name, limit=documents)), encoding="utf-8")
    return text
