"""The tokenizer of a GGUF file, with the rules that the file names.

A byte-level BPE tokenizer cuts text into words first and merges bytes inside each word only. How it cuts is a part of
the tokenizer: merges were learnt between those cuts and no others. A GGUF file does not hold the rule, it names it
(`tokenizer.ggml.pre`), and llama.cpp knows the names. transformers 5.23 knows about twenty of them and gives every
other file GPT-2's rule, in silence. SmolLM2's rule is "smollm": every digit stands alone, then GPT-2's rule. Under
GPT-2's rule, "\\n\\n45" begins with two tokens for one newline each, where the model has learnt one token for both.

`load_gguf_tokenizer` lets transformers build the vocabulary and then sets the rules. It refuses a file whose rule is
unknown here, and names that rule. The rules are those of llama.cpp, in the form of the models' own tokenizer.json.
They are checked by hand and against the same rules written with `regex` (tests/models/test_gguf_tokenizer.py).

Left out: rules that are more than regular expressions (kimi-k2, afmoe), and those of models that nobody loads here.
"""

from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from course_lib.errors import CourseError

DIGIT = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Llama 3's rule and Qwen 2's differ in how many digits may stand together.
LETTERS_OR = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OR_THE_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = LETTERS_OR + r"\p{N}{1,3}" + OR_THE_REST
QWEN2 = LETTERS_OR + DIGIT + OR_THE_REST
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# These two cut where a small letter is followed by a capital one.
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
BEFORE, AFTER = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = f"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|" + DIGIT + AFTER
GPT4O = f"{BEFORE}{UPPER}*{LOWER}+{ENDING}|{BEFORE}{UPPER}+{LOWER}*{ENDING}|" + r"\p{N}{1,3}" + AFTER
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",  # Chinese, Hiragana, Katakana
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", DIGIT)

# Names of rules, and the patterns of each: every pattern cuts the pieces that the one before it has left.
_NAMES: list[tuple[str, tuple[str, ...]]] = [
    ("gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4", (GPT2,)),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", (DIGIT, GPT2)),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe glm4 chatglm-bpe", (LLAMA3,)),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", (QWEN2,)),
    ("qwen35", (QWEN35,)),
    ("tekken", (TEKKEN,)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", (GPT4O,)),
    ("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")),
    ("deepseek-v3 hunyuan-dense joyai-llm", DEEPSEEK3),
    ("deepseek-coder", DEEPSEEK_CODER),
    ("bloom poro-chat gpt3-finnish", (BLOOM,)),
    ("viking", (BLOOM, DIGIT)),
    ("default", (PUNCTUATION, GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
]
SPLIT_RULES = {name: patterns for names, patterns in _NAMES for name in names.split()}
# Rules that say two things more, where the file itself is silent: a word that is in the vocabulary is one token even
# where no merges lead to it, and a text starts with the begin token.
WHOLE_WORDS_AND_BOS = set("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 tekken".split())
USER_DEFINED = 4  # a token type of GGUF: found in text as it is, before any rule


def load_gguf_tokenizer(gguf: Path, split_rule: str | None = None) -> Any:
    """The tokenizer of a GGUF file, as transformers' own class.

    Args:
        gguf: the file.
        split_rule: a name of `SPLIT_RULES`, for a file that names none.

    Returns:
        The tokenizer, ready for `save_pretrained`.

    Raises:
        CourseError: the file names an unknown rule or no rule, or some of its tokens got lost.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    settings = tokenizer_settings(gguf)
    if split_rule is not None:
        settings["pre"] = split_rule
    set_rules(tokenizer.backend_tokenizer, settings, gguf.name)
    if settings.get("pre") in WHOLE_WORDS_AND_BOS and "add_bos_token" not in settings:
        tokenizer.add_bos_token = True
        tokenizer.update_post_processor()
    return tokenizer


def tokenizer_settings(gguf: Path) -> dict[str, Any]:
    """The file's settings under `tokenizer.ggml`, without that prefix, and its architecture."""
    reader, prefix = GGUFReader(gguf), "tokenizer.ggml."
    wanted = ("model", "pre", "tokens", "token_type", "merges", "add_bos_token", "add_space_prefix")
    settings = {name: field.contents() for name in wanted if (field := reader.get_field(prefix + name)) is not None}
    architecture = reader.get_field("general.architecture")
    return settings | {"architecture": architecture.contents() if architecture is not None else ""}


def set_rules(tokenizer: Tokenizer, settings: dict[str, Any], file: str) -> None:
    """Give a tokenizer that transformers made the rules that the file's settings name, in place.

    Args:
        tokenizer: of the library `tokenizers`.
        settings: as `tokenizer_settings` returns them.
        file: the file's name, for errors.

    Raises:
        CourseError: the rule is unknown here, or is not named, or a token got lost.
    """
    _restore_tokens(tokenizer, settings, file)
    if settings.get("model") == "gpt2":
        _set_split_rule(tokenizer, settings.get("pre"), file)
    elif settings.get("model") == "llama" and not settings["architecture"].startswith("gemma"):
        _set_space_rule(tokenizer, settings.get("add_space_prefix", True))


def _set_split_rule(tokenizer: Tokenizer, name: str | None, file: str) -> None:
    if name not in SPLIT_RULES:
        what = "names no rule" if name is None else f"names the rule {name!r}, which is unknown here,"
        raise CourseError(
            f"{file} {what} by which its tokenizer splits text into words (tokenizer.ggml.pre); with another rule the "
            f"model would read other tokens than it has learnt. Known rules: {', '.join(sorted(SPLIT_RULES))}. Load "
            "the model's own folder, which has a tokenizer.json, instead."
        )
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in SPLIT_RULES[name]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    if name in WHOLE_WORDS_AND_BOS:
        model = tokenizer.model
        model.ignore_merges = True
        tokenizer.model = model


def _set_space_rule(tokenizer: Tokenizer, prefix: bool) -> None:
    """SentencePiece's rule: a space becomes "▁", and one more is put before the text, whatever the text begins with.

    transformers puts one only where the text does not begin with a space, so that " x" loses a token.
    """
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    tokenizer.pre_tokenizer = None
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)


def _restore_tokens(tokenizer: Tokenizer, settings: dict[str, Any], file: str) -> None:
    """Put back the user-defined tokens that transformers loses: those with a space or another character that the byte
    alphabet spells differently, such as GPT-NeoX's runs of spaces and DeepSeek-Coder's <｜fim▁hole｜>."""
    tokens, types = settings.get("tokens", []), settings.get("token_type", [])
    numbers = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind == USER_DEFINED}
    byte_level = settings.get("model") == "gpt2"
    # SentencePiece vocabularies know a space as "▁".
    spelled = {token: token if byte_level else token.replace(" ", "▁") for token in numbers}
    lost = [token for token, number in numbers.items() if tokenizer.token_to_id(spelled[token]) != number]
    if lost and byte_level:
        merges = [tuple(merge.split(" ")) for merge in settings["merges"]]
        tokenizer.model = BPE({token: i for i, token in enumerate(tokens)}, merges)
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in lost])
    for token in lost:
        if tokenizer.token_to_id(token) != numbers[token]:
            raise CourseError(
                f"{file} has the token {token!r} (number {numbers[token]}), which its tokenizer loses on the way. "
                "Load the model's own folder, which has a tokenizer.json, instead."
            )
