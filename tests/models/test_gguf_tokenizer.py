"""A GGUF file's tokenizer has the rules that the file names: by hand, against `regex`, and on real texts."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import regex
from gguf import GGUFReader, GGUFWriter
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from course_lib.errors import CourseError
from course_lib.models.gguf_tokenizer import SPLIT_RULES, load_gguf_tokenizer, set_rules
from course_lib.models.pretrained import PACKAGED

ROOT = Path(__file__).parents[2]
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_alphabet() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next free one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = {byte: chr(256 + i) for i, byte in enumerate(others)} | {byte: chr(byte) for byte in printable}
    return [letters[byte] for byte in range(256)]


BYTES = byte_alphabet()


def spelled(text: str) -> str:
    return "".join(BYTES[byte] for byte in text.encode())


# --- the packaged model against the rule, written once more without transformers and tokenizers -----------------------


class WrittenByHand:
    """Byte-level BPE with SmolLM2's rule, straight from the GGUF file: slow, short, and nobody else's code."""

    def __init__(self, gguf: Path):
        field = GGUFReader(gguf).get_field
        self.ids = {token: i for i, token in enumerate(field("tokenizer.ggml.tokens").contents())}
        merges = (tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges").contents())
        self.rank = {pair: i for i, pair in enumerate(merges)}
        kinds = field("tokenizer.ggml.token_type").contents()
        control = [token for token, kind in zip(self.ids, kinds, strict=True) if kind == 3]
        self.known: dict[str, list[int]] = {token: [self.ids[token]] for token in control}
        self.apart = "|".join(map(regex.escape, control)) + r"|\p{N}"  # control tokens, and every digit, stand alone

    def __call__(self, text: str) -> list[int]:
        found = []
        for piece in regex.split(f"({self.apart})", text):
            words = [piece] if piece in self.known else regex.findall(GPT2, piece)
            for word in words:
                if word not in self.known:
                    self.known[word] = [self.ids[token] for token in self.merge(spelled(word))]
                found += self.known[word]
        return found

    def merge(self, word: str) -> list[str]:
        parts = list(word)
        while len(parts) > 1:
            rank, i = min((self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(itertools.pairwise(parts)))
            if rank == len(self.rank):
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return parts


@pytest.fixture(scope="module")
def by_hand():
    return WrittenByHand(PACKAGED["smollm2-135m-instruct"].gguf_path())


def real_texts() -> list[str]:
    """The project's own prose and code: tables, lists with numbers, formulas, many digits after line breaks."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("book/*.md"))]
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        texts += ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    return texts


@pytest.mark.weights
def test_real_texts_have_the_tokens_that_the_files_rule_gives(smollm2, by_hand):
    """Also a guard of the guard: with GPT-2's rule alone, which transformers takes, some texts have other tokens."""
    tokenizer, texts = smollm2[1], real_texts()
    assert len(texts) > 100
    ours = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert ours == [by_hand(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in ours] == texts

    from tokenizers import pre_tokenizers

    without = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    without.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert any(without.encode(text).ids != ids for text, ids in zip(texts, ours, strict=True))


@pytest.mark.weights
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\n\n45", ["ĊĊ", "4", "5"]),  # with GPT-2's rule: Ċ Ċ 4 5
        ("a  7", ["a", "ĠĠ", "7"]),
        ("x\t\t3", ["x", "ĉĉ", "3"]),
        ("in 2024:", ["in", "Ġ", "2", "0", "2", "4", ":"]),
        ("don't", ["don", "'t"]),
    ],
)
def test_worked_examples(text, tokens, smollm2, by_hand):
    assert smollm2[1].tokenize(text) == tokens
    assert [smollm2[1].convert_tokens_to_ids(token) for token in tokens] == by_hand(text)


# --- each rule's cuts ------------------------------------------------------------------------------------------------


def cuts(name: str, text: str) -> list[str]:
    """How a tokenizer with this rule cuts a text into words."""
    tokenizer = Tokenizer(models.BPE())
    set_rules(tokenizer, {"model": "gpt2", "pre": name}, "x.gguf")
    return [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-2", "\n\n45 it's", ["\n", "\n", "45", " it", "'s"]),
        ("smollm", "\n\n45 it's", ["\n\n", "4", "5", " it", "'s"]),
        ("starcoder", "x  = 10", ["x", " ", " =", " ", "1", "0"]),
        ("command-r", "No. 12", ["No", ".", " ", "1", "2"]),
        ("llama-bpe", "It'S 12345!!\n\nOK", ["It", "'S", " ", "123", "45", "!!\n\n", "OK"]),
        ("qwen2", "It'S 123!!\n\nOK", ["It", "'S", " ", "1", "2", "3", "!!\n\n", "OK"]),
        ("tekken", "camelCase 12/\n", ["camel", "Case", " ", "1", "2", "/\n"]),
        ("gpt-4o", "camelCase's 1234", ["camel", "Case's", " ", "123", "4"]),
        ("falcon", "\n =3, 31415`", ["\n ", "=", "3", ",", " ", "314", "15", "`"]),
        ("deepseek-v3", "12345 (x) 你好y", ["123", "45", " (", "x", ")", " ", "你好", "y"]),
        ("deepseek-coder", "a\nif x1.", ["a", "\n", "if", " x", "1", "."]),
        ("bloom", "Well, 12 x", ["Well", ",", " 12", " x"]),
        ("viking", "Well, 12 x", ["Well", ",", " ", "1", "2", " x"]),
        ("default", "no=1234.", ["no", "=", "123", "4", "."]),
    ],
)
def test_cuts_by_hand(name, text, words):
    assert cuts(name, text) == words


@pytest.mark.parametrize("name", SPLIT_RULES)
def test_cuts_are_those_of_regex(name):
    """Python's `regex` is another engine than the tokenizers' Oniguruma; each pattern cuts what the last one left."""
    text = (
        "\n\n45 It'S  don't\tcamelCase １２³½ x=1234567.89%\r\n\r\n 你好。ひらカナ 한국어 Ⅻ naïve e\u0301 "
        "😀👍🏽 $^`|~ -- ...\n\n  /usr/bin: 1000 0x1F\t\t7\n \n\u3000\u2028 'll 'LL's"
    )
    pieces = [text]
    for pattern in SPLIT_RULES[name]:
        pieces = [part for piece in pieces for part in regex.split(f"({pattern})", piece) if part]
    assert cuts(name, text) == pieces


# --- files made here -------------------------------------------------------------------------------------------------


def write_gguf(
    path: Path, kind: str, tokens: list[str], merges: list[str], types: list[int], architecture="llama", **settings
) -> Path:
    """A GGUF file with a tokenizer and no weights. settings: `pre`, `add_space_prefix` and so on."""
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types(types)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    for name, value in settings.items():
        {"pre": writer.add_tokenizer_pre, "add_space_prefix": writer.add_add_space_prefix}[name](value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture
def byte_level(tmp_path):
    """Make a byte-level file: 256 bytes, two line breaks in one token, and what a test adds."""

    def make(extra=(), types=(), merges=(), **settings):
        tokens = ["<s>", "</s>", "<unk>", *BYTES, "ĊĊ", "Ġ4", *extra]
        kinds = [3, 3, 3, *[1] * 258, *types]
        return write_gguf(tmp_path / "tiny.gguf", "gpt2", tokens, ["Ċ Ċ", "Ġ 4", *merges], kinds, **settings)

    return make


def test_the_rule_of_a_file_is_kept_by_saving(byte_level, tmp_path):
    tokenizer = load_gguf_tokenizer(byte_level(pre="smollm"))
    assert tokenizer.tokenize("\n\n4 4") == ["ĊĊ", "4", "Ġ", "4"]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.tokenize("\n\n4 4") == ["ĊĊ", "4", "Ġ", "4"]
    assert again.decode(again("\n\n4 4")["input_ids"]) == "\n\n4 4"


def test_unknown_rules_are_refused_by_name(byte_level, tmp_path):
    with pytest.raises(CourseError, match=r"tiny.gguf names the rule 'kimi-k2', which is unknown here.*smollm"):
        load_gguf_tokenizer(byte_level(pre="kimi-k2"))
    with pytest.raises(CourseError, match=r"tiny.gguf names no rule .*tokenizer\.ggml\.pre.*tokenizer\.json"):
        load_gguf_tokenizer(byte_level())
    assert load_gguf_tokenizer(byte_level(), split_rule="gpt-2").tokenize(" 4\n\n4") == ["Ġ4", "Ċ", "Ċ", "4"]


def test_the_converter_says_why_in_one_line(byte_level, tmp_path):
    command = [sys.executable, "-m", "course_lib.models.convert", str(byte_level(pre="afmoe")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: tiny.gguf names the rule 'afmoe', which is unknown here")
    assert "Traceback" not in done.stderr


def test_words_of_the_vocabulary_and_the_begin_token(byte_level):
    """Llama 3's rule means more than its cuts: "abc" is one token though no merges lead to it, and a text has a BOS."""
    path = byte_level(extra=["abc"], types=[1], pre="llama-bpe")
    assert load_gguf_tokenizer(path)("abc abcd")["input_ids"][:2] == [0, 261]
    assert load_gguf_tokenizer(path).tokenize("abc abcd") == ["abc", "Ġ", "a", "b", "c", "d"]
    plain = load_gguf_tokenizer(byte_level(extra=["abc"], types=[1], pre="smollm"))
    assert plain.tokenize("abc") == ["a", "b", "c"]
    assert plain("abc")["input_ids"][0] != 0


def test_user_defined_tokens_with_spaces_are_kept(byte_level):
    """transformers spells "  " in the byte alphabet, where it covers another token, and forgets it as a token."""
    path = byte_level(extra=["ĠĠ", "   ", "<｜hole｜>"], types=[1, 4, 4], merges=["Ġ Ġ"], pre="gpt-2")
    tokenizer = load_gguf_tokenizer(path)
    assert tokenizer("a    b<｜hole｜>")["input_ids"][1] == 262
    assert tokenizer("<｜hole｜>")["input_ids"] == [263]
    assert tokenizer.tokenize("a   b") == ["a", "   ", "b"]


@pytest.mark.parametrize(("prefix", "tokens"), [(None, ["▁▁", "a"]), (True, ["▁▁", "a"]), (False, ["▁", "a"])])
def test_sentencepiece_puts_a_space_before_every_text(prefix, tokens, tmp_path):
    """transformers puts it only where the text does not begin with one: " a" had the tokens of "a"."""
    vocabulary = ["<s>", "</s>", "<unk>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁▁", "▁a", "a", "▁"]
    settings = {} if prefix is None else {"add_space_prefix": prefix}
    path = write_gguf(tmp_path / "x.gguf", "llama", vocabulary, ["▁ ▁"], [3, 3, 2, *[6] * 256, *[1] * 4], **settings)
    tokenizer = load_gguf_tokenizer(path)
    assert tokenizer.tokenize(" a") == tokens
    assert tokenizer.decode(tokenizer(" a", add_special_tokens=False)["input_ids"]) == " a"


def test_gemmas_runs_of_spaces_are_found(tmp_path):
    """Gemma's file spells them with spaces and marks them as user-defined; its tokenizer knows them as "▁▁"."""
    vocabulary = ["<pad>", "<eos>", "<bos>", *[f"<0x{byte:02X}>" for byte in range(256)], "  ", "▁", "a", "\n\n", "\n"]
    types = [3, 3, 3, *[6] * 256, 4, 1, 1, 4, 4]
    path = write_gguf(tmp_path / "x.gguf", "llama", vocabulary, ["▁ ▁"], types, "gemma3", add_space_prefix=False)
    tokenizer = load_gguf_tokenizer(path)
    assert tokenizer("  a\n\na a", add_special_tokens=False)["input_ids"] == [259, 261, 262, 261, 260, 261]
