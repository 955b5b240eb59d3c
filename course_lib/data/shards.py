"""Plain text to token shards on disk, and back: large corpora are tokenised once and read without loading them.

`train_00000.npy`, `train_00001.npy`, ..., `val_00000.npy`: one-dimensional arrays of token ids, uint16 where the
vocabulary allows it, else uint32. `shards.json` beside them says what they were made from.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from course_lib.errors import CourseError
from course_lib.files import write_json

MANIFEST = "shards.json"
CHUNK = 1 << 16  # characters tokenised at a time


def prepare(
    inputs: Sequence[Path],
    output: Path,
    tokenizer,
    train_ratio: float = 0.9,
    *,
    shard_tokens: int = 100_000_000,
    force: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[int], None] = lambda characters: None,
) -> dict:
    """Tokenise text files into shards in `output`; returns the manifest (tokens per split, shards, fingerprint).

    The first `train_ratio` of the tokens are for training, the rest for validation. Between two files stands the
    tokenizer's end-of-text token, if it has one. A second call with the same files and settings changes nothing; other
    shards in `output` are only replaced with `force`. Text is read in pieces, so memory does not grow with it.
    """
    if not 0 < train_ratio < 1:
        raise CourseError(f"train_ratio={train_ratio}: a share above 0 and below 1.")
    if shard_tokens < 1:
        raise CourseError(f"shard_tokens={shard_tokens}: at least 1.")
    for path in inputs:
        if not path.is_file():
            raise CourseError(f"There is no text file {path}.")
    fingerprint = _fingerprint(inputs, tokenizer, train_ratio, shard_tokens)
    if (known := _claim(output, fingerprint, force)) is not None:
        say(f"{output} is current: {_counts(known)}")
        return known

    dtype = np.dtype(np.uint16 if len_of(tokenizer) <= 1 << 16 else np.uint32)
    everything = output / ".tokens.tmp"
    try:
        total = _tokenize_to(everything, inputs, tokenizer, dtype, say, progress)
        train = int(train_ratio * total)
        if not 0 < train < total:
            raise CourseError(f"{total} tokens cannot be shared out {train_ratio:.0%} to training: one part is empty.")
        tokens = np.memmap(everything, dtype=dtype, mode="r")
        shards = _write_shards(output, "train", tokens[:train], shard_tokens)
        shards |= _write_shards(output, "val", tokens[train:], shard_tokens)
        del tokens
    finally:
        everything.unlink(missing_ok=True)
    manifest = {"fingerprint": fingerprint, "complete": True, "dtype": dtype.name, "shards": shards}
    write_json(output / MANIFEST, manifest)
    for name, count in shards.items():
        say(f"  {output / name}: {count:,} tokens")
    return manifest


def len_of(tokenizer) -> int:
    """The number of ids that a tokenizer can give: transformers' (with added tokens), or the NumPy edition's."""
    return len(tokenizer) if hasattr(tokenizer, "__len__") else tokenizer.vocab_size


def _fingerprint(inputs: Sequence[Path], tokenizer, train_ratio: float, shard_tokens: int) -> str:
    """SHA-256 of all that decides what the shards hold: the files' bytes, how the tokenizer cuts, the settings."""
    digest = hashlib.sha256(json.dumps([train_ratio, shard_tokens, len_of(tokenizer)]).encode())
    digest.update(_described(tokenizer).encode())
    for path in inputs:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _described(tokenizer) -> str:
    """Everything that decides how the tokenizer cuts, as text."""
    if hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer.backend_tokenizer.to_str()
    return json.dumps([tokenizer.merges, tokenizer.special_tokens, tokenizer.numbering])


def _claim(output: Path, fingerprint: str, force: bool) -> dict | None:
    """The manifest, where `output` already holds just this; else make the folder ours, or refuse."""
    if output.exists() and not output.is_dir():
        raise CourseError(f"{output} is a file: shards need a folder.")
    path = output / MANIFEST
    known = _manifest(path)
    others = [file.name for split in ("train", "val") for file in output.glob(f"{split}_?????.npy")]
    if known and known["fingerprint"] == fingerprint and known["complete"]:
        for split in ("train", "val"):
            TokenShards(output, split)  # refuses a shard that was cut short since
        return known
    ours = known and known["fingerprint"] == fingerprint  # begun and not finished: a killed run goes on
    if others and not ours and not force:
        raise CourseError(
            f"{output} holds shards of other texts or settings ({others[0]}, ...): choose another folder, or --force."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / MANIFEST, {"fingerprint": fingerprint, "complete": False, "shards": {}})
    for name in others:
        (output / name).unlink()
    return None


def _manifest(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text())
        if not {"fingerprint", "complete", "shards"} <= known.keys():
            raise ValueError("a key is missing")
    except (ValueError, AttributeError) as error:
        raise CourseError(f"{path} is damaged ({error}): remove it, and prepare the shards again.") from error
    return known


def _tokenize_to(path: Path, inputs, tokenizer, dtype, say, progress) -> int:
    """Append every file's ids to one raw file; returns how many there are."""
    total, end = 0, getattr(tokenizer, "eos_token_id", None)
    with path.open("wb") as file:
        for number, text in enumerate(inputs):
            if number and end is not None:
                file.write(np.array([end], dtype).tobytes())
                total += 1
            before = total
            for pieces in _batched(_pieces(text), 32):
                for ids in encode_many(tokenizer, pieces):
                    file.write(np.array(ids, dtype).tobytes())
                    total += len(ids)
                progress(sum(map(len, pieces)))
            say(f"{text}: {total - before:,} tokens")
    return total


def encode_many(tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of several texts, without the tokenizer's own beginning and end; transformers' does them in parallel."""
    if hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [tokenizer.encode(text) for text in texts]


def _pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces that each begin with white space (but the first).

    Byte-level tokenizers cut text into words before they merge, and a word begins with the white space before it, so
    the pieces' tokens are the whole text's.
    """
    rest = ""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while block := file.read(CHUNK):
                rest += block
                end = _last_word(rest)
                if end:
                    yield rest[:end]
                    rest = rest[end:]
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text ({error.reason}).") from error
    if rest:
        yield rest


def _last_word(text: str) -> int:
    """Where the white space before the last word begins."""
    end = len(text)
    while end and not text[end - 1].isspace():
        end -= 1
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_shards(output: Path, split: str, tokens: np.ndarray, shard_tokens: int) -> dict[str, int]:
    """Each shard is whole before it has its name."""
    written = {}
    for number, start in enumerate(range(0, len(tokens), shard_tokens)):
        part, name = tokens[start : start + shard_tokens], f"{split}_{number:05d}.npy"
        temporary = output / f".{name}.tmp"
        with temporary.open("wb") as file:
            np.save(file, part, allow_pickle=False)
        os.replace(temporary, output / name)
        written[name] = len(part)
    return written


def _counts(manifest: dict) -> str:
    sums = {
        split: sum(n for name, n in manifest["shards"].items() if name.startswith(split))
        for split in TokenShards.SPLITS
    }
    return ", ".join(f"{split} {count:,} tokens" for split, count in sums.items())


class TokenShards:
    """The shards of one split as one sequence of blocks, read from disk as they are asked for.

    blocks: rows of `block_size` tokens; a row does not reach from one shard into the next, and a shard's tail that does
    not fill a row is left out. `shards[i]` is int64 (block_size,), and `shards[array]` int64 (len, block_size), so that
    `batches` takes it in place of an array.
    """

    SPLITS = ("train", "val")

    def __init__(self, folder: Path | str, split: str = "train", block_size: int = 1):
        self.folder, self.block_size = Path(folder), block_size
        paths = sorted(self.folder.glob(f"{split}_*.npy"))
        if not paths:
            raise CourseError(f"{folder} has no shard {split}_00000.npy: `course data prepare` makes them.")
        known = _manifest(self.folder / MANIFEST) or {"complete": True, "shards": {}}
        if not known["complete"]:
            raise CourseError(f"{folder} was not finished: run `course data prepare` again, it goes on by itself.")
        if missing := {n for n in known["shards"] if n.startswith(f"{split}_")} - {path.name for path in paths}:
            raise CourseError(f"{folder} lacks {', '.join(sorted(missing))}: prepare it again with --force.")
        self.arrays = [_open(path, known["shards"].get(path.name)) for path in paths]
        self.tokens = sum(map(len, self.arrays))
        self._first = np.cumsum([0] + [len(array) // block_size for array in self.arrays])
        if not len(self):
            raise CourseError(f"{folder} has {self.tokens} {split} tokens, fewer than one block of {block_size}.")

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index) -> np.ndarray:
        if np.ndim(index):
            return np.stack([self[i] for i in np.asarray(index)])
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        index = int(index) % len(self)
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        start = (index - self._first[shard]) * self.block_size
        return self.arrays[shard][start : start + self.block_size].astype(np.int64)


def _open(path: Path, expected: int | None) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CourseError(f"The shard {path} is cut short or damaged ({error}): prepare it again.") from error
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise CourseError(f"{path} holds {array.dtype} {array.shape}, expected token ids in one dimension.")
    if expected is not None and len(array) != expected:
        raise CourseError(f"The shard {path} has {len(array):,} tokens and should have {expected:,}: prepare it again.")
    return array
