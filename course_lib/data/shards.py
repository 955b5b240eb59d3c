"""Plain text to token shards on disk, and back: large corpora are tokenised once and read without loading them.

`train_00000.npy`, `train_00001.npy`, ..., `val_00000.npy`: one-dimensional arrays of token ids, uint16 where the
vocabulary allows it, else uint32. `shards.json` beside them says what they were made from.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.data.pieces import PIECE, TOGETHER, encode_in_pieces
from course_lib.data.text import at_least_one
from course_lib.data.tokenizers import TextEncoder, Tokenizer
from course_lib.errors import CourseError
from course_lib.files import write_json

MANIFEST = "shards.json"
VERSION = 2  # of the shards: another one means that the same text may have got other ids
MOST = 100_000  # shards of a split that five digits can number


def prepare(
    inputs: Sequence[Path],
    output: Path,
    tokenizer: Tokenizer,
    train_ratio: float = 0.9,
    *,
    shard_tokens: int = 100_000_000,
    force: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[int], None] = lambda characters: None,
) -> dict:
    """Tokenise text files into shards, piece by piece. A second call with the same files and settings changes nothing.

    Args:
        inputs: UTF-8 text files, in order. The tokenizer's end-of-text token, if it has one, stands between them.
        output: the folder of the shards. A CourseError refuses one with other or damaged shards, unless `force`.
        tokenizer: makes ids of the text.
        train_ratio: the share of the tokens, from the start, that is for training. The rest is for validation.
        shard_tokens: tokens of a shard.
        force: whether such shards are replaced, and not before all text has been tokenised.
        say: called with each line about what was done.
        progress: called with the number of characters that were just tokenised.

    Returns:
        The manifest: version, fingerprint, dtype, and the tokens and CRC-32 of each shard.

    Raises:
        CourseError: a file is missing, a number is out of its range, or a part would be empty.
    """
    if not 0 < train_ratio < 1:
        raise CourseError(f"train_ratio={train_ratio}: a share above 0 and below 1.")
    at_least_one(shard_tokens=shard_tokens)
    for path in inputs:
        if not path.is_file():
            raise CourseError(f"There is no text file {path}.")
    fingerprint = _fingerprint(inputs, tokenizer, train_ratio, shard_tokens)
    if (known := _current(output, fingerprint, force)) is not None:
        say(f"{output} is current: {_counts(known)}")
        return known

    output.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if len_of(tokenizer) <= 1 << 16 else np.uint32)
    everything = output / ".tokens.tmp"
    try:
        total = _tokenize_to(everything, inputs, tokenizer, dtype, say, progress)
        train = _training_tokens(total, train_ratio, shard_tokens)
        _clear(output, fingerprint)
        tokens = np.memmap(everything, dtype=dtype, mode="r")
        sums = _write_shards(output, "train", tokens[:train], shard_tokens)
        sums |= _write_shards(output, "val", tokens[train:], shard_tokens)
        del tokens
    finally:
        everything.unlink(missing_ok=True)
    manifest: dict[str, Any] = {"version": VERSION, "fingerprint": fingerprint, "complete": True, "dtype": dtype.name}
    manifest["shards"] = {name: count for name, (count, _) in sums.items()}
    manifest["crc32"] = {name: crc for name, (_, crc) in sums.items()}
    write_json(output / MANIFEST, manifest)
    for name, count in manifest["shards"].items():
        say(f"  {output / name}: {count:,} tokens")
    return manifest


def _training_tokens(total: int, train_ratio: float, shard_tokens: int) -> int:
    """How many tokens are for training. CourseError where a part would be empty, or there would be too many shards."""
    train = int(train_ratio * total)
    if not 0 < train < total:
        raise CourseError(
            f"{total} tokens cannot be shared out {train_ratio:.0%} to training: one part is empty. Give more text, or "
            "another train_ratio."
        )
    if total > MOST * shard_tokens:
        raise CourseError(f"shard_tokens={shard_tokens} makes more than {MOST:,} shards of {total:,} tokens: raise it.")
    return train


def len_of(tokenizer: Any) -> int:
    """The number of ids that a tokenizer can give: `len` of transformers' counts added tokens too."""
    return len(tokenizer) if hasattr(tokenizer, "__len__") else tokenizer.vocab_size


def _fingerprint(inputs: Sequence[Path], tokenizer: Tokenizer, train_ratio: float, shard_tokens: int) -> str:
    """SHA-256 of all that decides what the shards hold: files' bytes, how they are cut, the tokenizer, the settings."""
    digest = hashlib.sha256(json.dumps([VERSION, train_ratio, shard_tokens, _described(tokenizer)]).encode())
    for path in inputs:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _described(tokenizer: Any) -> list:
    """Everything that decides which ids the tokenizer gives."""
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = _backend(tokenizer).to_str()
    else:
        rules = [tokenizer.merges, tokenizer.special_tokens, tokenizer.numbering]
    end = getattr(tokenizer, "eos_token_id", None)
    return [rules, len_of(tokenizer), end, _splits_special_tokens(tokenizer)]


def _current(output: Path, fingerprint: str, force: bool) -> dict | None:
    """The manifest, where `output` already holds just these shards; None where they may be written."""
    if output.exists() and not output.is_dir():
        raise CourseError(f"{output} is a file: shards need a folder.")
    if force:
        return None
    known = _manifest(output / MANIFEST)
    ours = known is not None and known["fingerprint"] == fingerprint  # perhaps unfinished: a killed run goes on
    if known is not None and ours and known["complete"]:
        for split in TokenShards.SPLITS:
            TokenShards(output, split).verify()
        return known
    others = [] if ours else _shard_files(output)
    if others and known is not None and known.get("version") != VERSION:
        raise CourseError(
            f"{output} holds shards of another version of this course ({others[0].name}, ...), which may have other "
            "tokens where it cut a text into pieces: prepare them again with --force, or choose another folder."
        )
    if others:
        raise CourseError(
            f"{output} holds shards of other texts or settings ({others[0].name}, ...): choose another folder, or "
            "--force."
        )
    return None


def _shard_files(output: Path) -> list[Path]:
    """The finished shards in a folder."""
    return [file for split in TokenShards.SPLITS for file in sorted(output.glob(f"{split}_?????.npy"))]


def _clear(output: Path, fingerprint: str) -> None:
    """Make the folder ours, unfinished and empty."""
    unfinished = {"version": VERSION, "fingerprint": fingerprint, "complete": False, "shards": {}}
    write_json(output / MANIFEST, unfinished)
    for file in (*_shard_files(output), *output.glob(".*_?????.npy.tmp")):
        file.unlink()


def _manifest(path: Path) -> dict | None:
    """What `shards.json` says; None without such a file."""
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text())
        if not ({"fingerprint", "complete", "shards"} <= known.keys() and isinstance(known["shards"], dict)):
            raise ValueError("a key is missing")
    except (ValueError, AttributeError) as error:
        raise CourseError(f"{path} is damaged ({error}): prepare the shards again with --force.") from error
    return known


def _tokenize_to(
    path: Path,
    inputs: Sequence[Path],
    tokenizer: Tokenizer,
    dtype: np.dtype,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> int:
    """Append every file's ids to one raw file. Returns how many there are."""
    total, end = 0, getattr(tokenizer, "eos_token_id", None)
    encode = partial(encode_many, tokenizer)
    with path.open("wb") as file:
        for number, text in enumerate(inputs):
            if number and end is not None:
                file.write(np.array([end], dtype).tobytes())
                total += 1
            before = total
            for characters, ids in encode_in_pieces(_read_blocks(text), encode):
                file.write(np.array(ids, dtype).tobytes())
                total += len(ids)
                progress(characters)
            say(f"{text}: {total - before:,} tokens")
    return total


def encode_many(tokenizer: TextEncoder, texts: list[str]) -> list[list[int]]:
    """The ids of several texts, without the tokenizer's own beginning and end.

    Args:
        tokenizer: one of transformers', which encodes the texts in parallel, or any with `encode`.
        texts: the texts.

    Returns:
        The ids of each text.
    """
    if hasattr(tokenizer, "backend_tokenizer"):  # asked itself, which leaves out the offsets: half as fast again
        return [found.ids for found in _backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]
    return [tokenizer.encode(text) for text in texts]


def _splits_special_tokens(tokenizer: Any) -> bool:
    """Whether the text of a special token is ordinary text to it. That is a setting of the tokenizer or of one call."""
    return bool(getattr(tokenizer, "split_special_tokens", False))


def _backend(tokenizer: Any) -> Any:
    """What works inside a tokenizer of transformers', without what an earlier call has set: it keeps such options."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = _splits_special_tokens(tokenizer)
    return backend


def _read_blocks(path: Path) -> Iterator[str]:
    """A file's text in blocks, each as much as is encoded at once."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while block := file.read(TOGETHER * PIECE):
                yield block
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text ({error.reason}): convert or unpack it.") from error


def _write_shards(output: Path, split: str, tokens: np.ndarray, shard_tokens: int) -> dict[str, tuple[int, int]]:
    """Write the shards of a split. Each one is whole before it gets its name. Returns {name: (tokens, CRC-32)}."""
    written = {}
    for number, start in enumerate(range(0, len(tokens), shard_tokens)):
        part, name = tokens[start : start + shard_tokens], f"{split}_{number:05d}.npy"
        temporary = output / f".{name}.tmp"
        with temporary.open("wb") as file:
            # As np.save does, whose error for a full disk does not say so.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(part))
            file.write(part.data)
        os.replace(temporary, output / name)
        written[name] = len(part), zlib.crc32(part.data)
    return written


def _counts(manifest: dict) -> str:
    """The tokens of each split, in words."""
    sums = {
        split: sum(n for name, n in manifest["shards"].items() if name.startswith(split))
        for split in TokenShards.SPLITS
    }
    return ", ".join(f"{split} {count:,} tokens" for split, count in sums.items())


class TokenShards:
    """The shards of one split as one sequence of blocks, read from disk as they are asked for.

    A block does not reach from one shard into the next, and a shard's tail that does not fill a block is left out.
    `shards[i]` is int64 (block_size,), and `shards[array]` is int64 (len, block_size), so that `batches` takes it in
    place of an array.

    Args:
        folder: where `prepare` wrote the shards.
        split: "train" or "val".
        block_size: tokens of a block.

    Raises:
        CourseError: shards are missing, unfinished or damaged, or they have fewer tokens than one block.
    """

    SPLITS = ("train", "val")

    def __init__(self, folder: Path | str, split: str = "train", block_size: int = 1):
        at_least_one(block_size=block_size)
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
        self._crc32 = {path: known.get("crc32", {}).get(path.name) for path in paths}
        self._first = np.cumsum([0] + [len(array) // block_size for array in self.arrays])
        if not len(self):
            raise CourseError(
                f"{folder} has {self.tokens} {split} tokens, fewer than one block of {block_size}: prepare more text, "
                "or take a smaller block."
            )

    def verify(self) -> None:
        """Read everything, and compare it with the checksums.

        Raises:
            CourseError: a shard is not as `prepare` wrote it.
        """
        for (path, expected), array in zip(self._crc32.items(), self.arrays, strict=True):
            if expected is not None and zlib.crc32(array.data) != expected:
                raise CourseError(f"The shard {path} was changed since it was made: prepare it again with --force.")

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """A block by number, int64 (block_size,), or several by their numbers, int64 (len, block_size)."""
        numbers = np.asarray(index)
        if numbers.ndim:
            return np.stack([self[number] for number in numbers])
        if not -len(self) <= numbers < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        number = int(numbers) % len(self)
        # _first[s] is the number of shard s's first block, so the last shard that begins at or before `number` has it.
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        start = (number - self._first[shard]) * self.block_size
        return self.arrays[shard][start : start + self.block_size].astype(np.int64)


def _open(path: Path, expected: int | None) -> np.ndarray:
    """A shard as an array that stays on disk; CourseError where it is damaged or its number of tokens is wrong."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise CourseError(
            f"The shard {path} is cut short or damaged ({error}): prepare it again with --force."
        ) from error
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise CourseError(f"{path} holds {array.dtype} {array.shape}, expected token ids in one dimension.")
    if expected is not None and len(array) != expected:
        raise CourseError(
            f"The shard {path} has {len(array):,} tokens and should have {expected:,}: prepare it again with --force."
        )
    return array
