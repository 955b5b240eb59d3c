"""A conversation in this process, as the model's template writes it."""

from types import SimpleNamespace

from transformers import AutoTokenizer

from course_lib.models.pretrained import DEFAULT, resolve
from course_lib.serve.conversation import Conversation
from course_lib.serve.loading import Loaded


def test_the_template_writes_a_message_of_the_system_unless_one_is_given():
    """SmolLM2's template does so, with and without a generation prompt, and many users do not know it."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT), local_files_only=True)
    model = SimpleNamespace(eval=lambda: None, config=SimpleNamespace(max_position_embeddings=2048))

    def prompt(**system):
        conversation = Conversation(Loaded(model, tokenizer, DEFAULT, {}), **system)
        return tokenizer.decode(conversation._ids([*conversation.turns, {"role": "user", "content": "Hi"}]))

    asked = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    own = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert prompt() == own + asked
    assert prompt(system="Be kind.") == "<|im_start|>system\nBe kind.<|im_end|>\n" + asked
    assert "SmolLM" not in prompt(system="")
    assert prompt(system="").endswith(asked)
