"""Templates that would train something wrong without a word."""

import copy

import pytest

from course_lib.alignment.templates import check_template
from course_lib.errors import CourseError

TURN = "{{ '<|' + m['role'] + '|>' + m['content'] + '<eos>' }}"
ASKS = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<eos>' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def with_template(tokenizer):
    def make(template):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        return changed

    return make


@pytest.mark.parametrize(
    "template", [f"{{% for m in messages %}}{TURN}{{% endfor %}}{ASKS}", MISTRAL], ids=["headers", "Mistral's"]
)
def test_sound_templates_pass(with_template, template):
    """Mistral's has nothing for add_generation_prompt, and needs nothing: its prompt ends where the answer begins."""
    check_template(with_template(template), "chat")


def test_a_template_without_a_generation_prompt_is_refused(with_template):
    with pytest.raises(CourseError, match="no generation prompt.*'<|assistant|>' would be trained"):
        check_template(with_template(f"{{% for m in messages %}}{TURN}{{% endfor %}}"), "chat")


def test_a_template_that_does_not_end_the_turn_is_refused(with_template):
    template = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\n' }}{% endfor %}" + ASKS
    with pytest.raises(CourseError, match="does not end the assistant's turn"):
        check_template(with_template(template), "chat")


def test_a_template_that_leaves_the_answer_out_is_refused(with_template):
    with pytest.raises(CourseError, match="leaves the assistant's turn out"):
        check_template(with_template("{{ messages[0]['content'] }}<eos>"), "chat")


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer):
    check_template(tokenizer, "instruction")
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(CourseError, match="no end-of-text token"):
        check_template(endless, "instruction")
    with pytest.raises(CourseError, match="no chat template"):
        check_template(tokenizer, "chat")


@pytest.mark.weights
def test_smollm2s_is_sound():
    from course_lib.models.pretrained import load_tokenizer

    check_template(load_tokenizer("smollm2-135m-instruct"), "chat")
