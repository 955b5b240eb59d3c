"""What is wrong with a profile, found before anything runs: unknown keys, wrong types and values, missing tables.

Our own profiles are the reference: a key that none of them has is a mistake, and a value has the type that it has
there. `LARGER` lists the tables for runs beyond the chapters.
"""

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

from course_lib.data.mixture import DataConfig
from course_lib.errors import CourseError
from course_lib.execution.hardware import HardwareConfig, check_against_this_machine
from course_lib.execution.profile import available_profiles, overlaid, profile_path, read_profile
from course_lib.execution.profile_values import impossible_values
from course_lib.suggestions import did_you_mean
from course_lib.vocabulary import nearest_option

REFERENCE = "cpu"  # whose values stand as examples
# An example of each setting; its type is what counts.
LARGER: dict[str, dict[str, Any]] = {
    "hardware": {each.name: each.default for each in fields(HardwareConfig)},
    "model": {"config": "modern-60m", "seq_len": 1024, "batch_size": 8, "grad_accum_steps": 1},
    "data_config": {each.name: each.default for each in fields(DataConfig)} | {"dataset_mix": {}, "tokens_target": 1},
    "slurm": {
        "site": "",
        "partition": "",
        "account": "",
        "time": "02:00:00",
        "nodes": 1,
        "modules": [""],
    },
}
TOP = {"description": "", "extends": ""}
FREE = ("dataset_mix",)  # tables whose keys are the user's own
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def reference() -> dict:
    """A profile with every table and setting that there is."""
    whole: dict[str, Any] = TOP | LARGER
    for name in (*available_profiles(), REFERENCE):
        whole = overlaid(whole, read_profile(profile_path(name)))
    return whole


def problems(table: dict, chapters: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with a profile's content, one sentence each.

    Args:
        table: the whole content.
        chapters: chapters of one's own, whose tables we cannot know.

    Yields:
        Sentences.
    """
    known = reference()
    ours = {key: value for key, value in table.items() if key not in chapters or key in known}
    found = [sentence for key, value in ours.items() for sentence in _unlike(key, value, known, "")]
    yield from found
    if not found:  # a wrong type has been said, and cannot be compared with a bound
        yield from impossible_values(ours)
        yield from _impossible_data(ours, "")


def _impossible_data(table: dict, where: str) -> Iterator[str]:
    """What DataConfig refuses, here and in the tables of the table."""
    for key, value in table.items():
        if key == "data_config" and {"dataset_mix", "tokens_target"} <= value.keys():
            try:
                DataConfig(**value)
            except CourseError as error:
                yield f"{where}{key}: {error}"
        elif isinstance(value, dict):
            yield from _impossible_data(value, f"{where}{key}.")


def _unlike(key: str, value: Any, known: dict, where: str) -> Iterator[str]:
    """How a setting differs in name or type from the reference's settings at the same place."""
    name = f"{where}{key}"
    if key not in known:
        what = "table" if isinstance(value, dict) else "setting"
        yield f"There is no {what} {name}.{_nearest(key, known)}"
        return
    example = known[key]
    if not _same_kind(value, example):
        yield f"{name} = {value!r} has to be {KINDS[type(example)]}, such as {example!r}."
    elif isinstance(value, dict) and key not in FREE:
        for inner, each in value.items():
            yield from _unlike(inner, each, example, f"{name}.")
    elif isinstance(value, list) and example:
        for each in value:
            if not _same_kind(each, example[0]):
                yield f"{name} = {value!r} has to be a list of {KINDS[type(example[0])].removeprefix('a ')}s."
                break


def _nearest(key: str, known: Collection[str]) -> str:
    """A question with the key that was probably meant: one spelt alike, or our name for another program's."""
    if hint := did_you_mean(key, known):
        return hint
    option = nearest_option(f"--{key}", [f"--{each.replace('_', '-')}" for each in known])
    return f" Did you mean {option.removeprefix('--').replace('-', '_')}?" if option else ""


def _same_kind(value: Any, example: Any) -> bool:
    if isinstance(value, bool) or isinstance(example, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    return isinstance(value, int | float) if isinstance(example, float) else isinstance(value, type(example))


def check_profile(name: str, table: dict, needed: Collection[str] = (), others: Collection[str] = ()) -> None:
    """Refuse a profile with a mistake in it.

    Args:
        name: of the profile.
        table: its whole content.
        needed: chapters that are to run and read a table of their own.
        others: more chapters that may have a table.

    Raises:
        CourseError: with all that is wrong, or with a chapter's table that is missing.
    """
    found = list(problems(table, (*needed, *others)))
    for chapter in needed:
        if chapter not in table:
            found.append(f'There is no table ["{chapter}"]: copy it from one of our profiles, or extend one.')
    if found:
        raise CourseError(f"Profile {name!r} cannot be used. " + " ".join(found))


def check_hardware(name: str, table: dict) -> HardwareConfig:
    """Refuse a profile that asks for what this machine does not have.

    Args:
        name: of the profile.
        table: its whole content.

    Returns:
        What the profile asks for.

    Raises:
        CourseError: as `check_against_this_machine`, or the table contradicts itself.
    """
    device = table.get("device", "cpu")
    wanted = HardwareConfig(device, int(device == "cuda"), 0, "no")  # what the chapters ask for
    if "hardware" in table:
        wanted = HardwareConfig.of(table["hardware"])
    check_against_this_machine(wanted, name)
    return wanted
