"""`course data`: look at data sets, check files of records, and turn text into token shards."""

import argparse
import sys
from pathlib import Path

from course_lib.errors import CourseError


def add_parser(subparsers) -> None:
    """Register `course data` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "data", help="check files of records, turn text into token shards, see the embedded data sets"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_prepare(actions)
    _add_check(actions)
    cards = actions.add_parser(
        "card", help="what the data sets in the package are", description="Print a data set's card, or all names."
    )
    cards.add_argument("name", nargs="?", help="which one (default: list them)")
    cards.set_defaults(run=run_card)


def add_prepare(actions) -> None:
    """Register `prepare`, which `course data prepare` and `course prepare` both are."""
    prepare = actions.add_parser(
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


def _add_check(actions) -> None:
    check = actions.add_parser(
        "check",
        help="which rows of a file of records can be used",
        description="Read records (Alpaca, chat, ShareGPT, preference, HH-RLHF, OpenAssistant, GSM8K) from a .json or "
        ".jsonl file (also .gz), a folder, or the hub; count them and name every malformed row. Exit status 1 if there "
        "is one.",
    )
    check.add_argument("source", help="file, folder, or a data set's name on the hub")
    check.add_argument("--format", default="auto", help="the format, if it is not to be told by the keys")
    check.add_argument("--split", default="train", help="with a hub name: which split (train)")
    check.add_argument("--config", help="with a hub name: which configuration, such as main of openai/gsm8k")
    check.add_argument("--show", type=int, default=1, metavar="N", help="print the first N records (1)")
    check.set_defaults(run=run_check)


def run_prepare(args: argparse.Namespace) -> int:
    """Tokenise with a progress bar on the terminal."""
    import tempfile

    from tqdm import tqdm

    from course_lib.data.shards import prepare

    if args.documents is not None and args.documents < 1:
        raise CourseError(f"--documents {args.documents}: at least 1.")
    tokenizer = load_tokenizer(args.tokenizer)
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


def _text_file(name: str, folder: Path, documents: int | None, tokenizer) -> Path:
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


def load_tokenizer(name: str | None):
    """The tokenizer of a model (default: the packaged one) or a saved BPETokenizer, by its .json file."""
    if name and name.endswith(".json"):
        from course_lib.scratch import BPETokenizer

        try:
            return BPETokenizer.load(name)
        except (OSError, ValueError) as error:
            raise CourseError(f"{name} is no saved BPETokenizer: {error}") from error
    from course_lib.models.pretrained import DEFAULT
    from course_lib.models.pretrained import load_tokenizer as of_model

    return of_model(name or DEFAULT)


def run_check(args: argparse.Namespace) -> int:
    """Print the counts, the first problems and the first records."""
    from course_lib.data import read_records

    reading = read_records(args.source, args.format, malformed="skip", split=args.split, config=args.config)
    print(reading)
    for record in reading.records[: max(args.show, 0)]:
        print(f"\n{record.source}")
        for message in record.messages:
            print(f"  {message['role']}: {message['content']}")
        if record.rejected is not None:
            print(f"  rejected: {record.rejected}")
        if record.answer is not None:
            print(f"  answer to check: {record.answer}")
    return 1 if reading.problems else 0


def run_card(args: argparse.Namespace) -> int:
    """Print one card, or the names."""
    from course_lib.data.generators import cards

    known = cards()
    if args.name is None:
        print("\n".join(known))
    elif args.name in known:
        print(known[args.name])
    else:
        raise CourseError(f"There is no data set {args.name!r} in the package: choose from {', '.join(known)}.")
    return 0
