"""What the name of a model means to a run: a shape with random weights, or files that can be found. Cheap: no torch."""

from pathlib import Path

from course_lib.errors import CourseError
from course_lib.finetuning.settings import Settings
from course_lib.models.config import CONFIGS
from course_lib.models.pretrained import resolve

HUB_NAMES = {"distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "smollm2-135m"}  # in CONFIGS and on the hub


def needs_no_files(settings: Settings) -> bool:
    """Whether the model's shape is known here and its weights come from elsewhere: random ones, or those of a file."""
    shape = settings.model in CONFIGS and not Path(settings.model).is_dir()
    return is_scratch(settings) or (settings.weights is not None and shape)


def is_scratch(settings: Settings) -> bool:
    """Whether the model begins with random weights: a shape of ours, or --from-scratch for one that the hub has too."""
    if settings.from_scratch and settings.model not in CONFIGS:
        raise CourseError(f"There is no shape {settings.model!r} to train from scratch: {', '.join(CONFIGS)}.")
    known = settings.model in CONFIGS and settings.model not in HUB_NAMES and not Path(settings.model).is_dir()
    return settings.from_scratch or known


def find_model(settings: Settings) -> None:
    """Find the model's folder, or fetch it: a mistyped name is then noticed before torch is imported.

    It raises CourseError where there is no such model.
    """
    if not needs_no_files(settings):
        resolve(settings.model)
