"""How published tokenizers cut text into words, and small tokenizers that cut it so."""

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The two differ in their digits: Qwen 2's stand alone, Llama 3's (and GPT-4's) are three to a word.
QWEN2, LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
)
# Lines of which a text has no single blank between two words: code, Chinese, tables, a column of numbers.
DENSE = ["x[0]=f(0);\n", "我们今天去公园。他说:“好的!”", '1,2.5,abc,"x_y"\r\n', "3.14159;-2718;\n"]


def trained_tokenizer(pattern, texts, prefix=False, size=600):
    """A byte-level tokenizer of transformers.

    Args:
        pattern: finds the words.
        texts: what it learns its merges from.
        prefix: whether it puts a blank before every text.
        size: of its vocabulary.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(prefix, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # or a byte that the texts lack would have no id
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)
