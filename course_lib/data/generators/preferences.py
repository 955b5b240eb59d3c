"""Preference pairs: a right and polite response beside one that is worse in a named way."""

from collections.abc import Callable
from itertools import islice
from random import Random

from course_lib.data.generators.checks import check_response
from course_lib.data.generators.instructions import questions, split_size
from course_lib.data.generators.questions import Question

SIZES = {"train": 600, "held_out": 150}
OPENERS = ("Of course", "Certainly", "Gladly", "With pleasure", "Happy to help", "Sure")
REFUSALS = (
    "I am sorry, but I cannot help with that.",
    "I would rather not answer this question.",
    "As a language model I am unable to do this.",
    "That is beyond me. Please ask somebody else.",
)
INSULTS = (
    "What a pointless thing to ask. {r}",
    "Even a child knows this. {r}",
    "{r}\nNext time do your own homework.",
    "{r}\nI cannot believe that I have to explain this.",
)
RAMBLES = (
    "Language is a wonderful thing.",
    "Questions like this one have kept people busy for a long time.",
    "There are many ways to look at it, and each has its friends.",
    "My thoughts drift to the sea, which asks for nothing.",
    "Before we come to that, let us consider why anyone would want to know.",
    "It reminds me of a story that I shall tell some other day.",
    "But I am getting ahead of myself, as so often.",
)
DODGES = (
    "That is a good question. {q}",
    "You ask: {q}",
    "{q} Many people wonder about this.",
    "I see what you mean. Let us talk about something else.",
)


def polite(opener: str, question: Question, answer: str) -> str:
    """An answer in the family's own reply, after a polite opening.

    Args:
        opener: one of `OPENERS`.
        question: its reply has the place for the answer.
        answer: right or wrong; of several with ``|`` between them the first is used.

    Returns:
        The response.
    """
    bare = question.reply == "{a}"
    return f"{opener}{':' if bare else '.'} {question.reply.replace('{a}', answer.split('|')[0])}"


def _wrong(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response is as polite as the chosen one, and wrong."""
    return polite(opener, question, question.wrong)


def _refuses(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response declines a harmless question."""
    return rng.choice(REFUSALS)


def _rude(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response is right, and insults the reader."""
    return rng.choice(INSULTS).replace("{r}", item["output"])


def _rambles(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response is right in the end, after three sentences about nothing."""
    return " ".join([*rng.sample(RAMBLES, 3), item["output"]])


def _dodges(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response talks about the question and does not answer it."""
    return rng.choice(DODGES).replace("{q}", item["instruction"])


def _ignores_format(rng: Random, item: dict, question: Question, opener: str) -> str:
    """The response has the right content in the wrong form. It needs a family that asks for a form."""
    return polite(opener, question, question.misformatted)


# Wrong answers come most often: they are what the check can see, and what reranking by a verifier has to catch.
REJECTIONS: dict[str, tuple[Callable[[Random, dict, Question, str], str], int]] = {
    "wrong": (_wrong, 4),
    "refuses": (_refuses, 1),
    "rude": (_rude, 2),
    "rambles": (_rambles, 2),
    "dodges": (_dodges, 1),
    "ignores_format": (_ignores_format, 8),
}


def preference_pairs(split: str = "train", size: int | None = None, seed: int = 0) -> list[dict]:
    """Pairs of a chosen and a rejected response; the arguments alone decide what they are. No prompt comes twice.

    The facts are split exactly as `instruction_set` splits them, so neither set's held-out facts are trained on in the
    other.

    Args:
        split: "train" or "held_out".
        size: how many pairs; by default 600 and 150.
        seed: decides what is drawn.

    Returns:
        Pairs {"prompt", "chosen", "rejected", "task", "why", "answer"}. All values are strings, and TRL's `DPOTrainer`
        reads the first three. The prompt is the instruction, with the input after a blank line where there is one.
        `why` is a key of `REJECTIONS`, and `check_preference` looks for `answer`.

    Raises:
        CourseError: the split is unknown, or the size is below 1.
    """
    size = split_size(split, size, SIZES)
    rng = Random(f"preferences rejected {seed}")
    return [_pair(rng, item, question) for item, question in islice(questions(split, f"preferences {seed}"), size)]


def _pair(rng: Random, item: dict, question: Question) -> dict:
    """One pair from an item and the question that it was made of."""
    kinds = {why: weight for why, (_, weight) in REJECTIONS.items() if why != "ignores_format" or question.misformatted}
    why = rng.choices(list(kinds), list(kinds.values()))[0]
    opener = rng.choice(OPENERS)
    return {
        "prompt": "\n\n".join(filter(None, (item["instruction"], item["input"]))),
        "chosen": polite(opener, question, question.answer),
        "rejected": REJECTIONS[why][0](rng, item, question, opener),
        "task": item["task"],
        "why": why,
        "answer": item["answer"],
    }


def check_preference(pair: dict, response: str) -> bool:
    """Whether a response answers a pair's prompt correctly and unambiguously. Manners are not judged.

    Args:
        pair: from `preference_pairs`.
        response: what a model answered.

    Returns:
        Whether the response is right.
    """
    instruction, _, given = pair["prompt"].partition("\n\n")
    return check_response(pair["task"], instruction, given, pair["answer"], response)
