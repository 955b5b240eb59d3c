import copy
import pickle
import tomllib

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.execution import load_profile
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.profile import available_profiles, profile_path


def test_a_chapter_reads_its_own_table_over_the_shared_settings():
    settings = load_profile("smoke", chapter="03_lora")
    assert settings.device == "cpu"
    assert settings.rank == 8
    assert settings.target_modules == ["q_proj", "v_proj"]
    assert "steps" in repr(settings)


def test_every_profile_has_every_chapter():
    names = available_profiles()
    assert set(names) == {"binder", "cpu", "gpu", "smoke"}
    for name in names:
        tables = tomllib.loads(profile_path(name).read_text())
        for chapter in find_chapters([]):
            assert chapter.id in tables, f"{name} does not say how large to run {chapter.id}"
            assert tables[chapter.id].keys() == tomllib.loads(profile_path("cpu").read_text())[chapter.id].keys()


def test_unknown_names_list_what_there_is(tmp_path):
    with pytest.raises(CourseError, match="no profile 'fast'. Choose one of binder, cpu, gpu, smoke"):
        load_profile("fast")
    with pytest.raises(CourseError, match=r"no table \[\"99_x\"\]"):
        load_profile("smoke", "99_x")
    with pytest.raises(CourseError, match="no setting 'stpes'; it has: .*steps"):
        _ = load_profile("smoke", "03_lora").stpes
    assert not hasattr(load_profile("smoke", "03_lora"), "stpes")
    assert getattr(load_profile("smoke", "03_lora"), "stpes", 7) == 7
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 3")
    with pytest.raises(CourseError, match="not valid TOML"):
        load_profile(str(bad))


def test_a_users_own_profile(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('device = "cpu"\nthreads = 1\n["03_lora"]\nsteps = 2\n')
    assert load_profile(str(own), "03_lora").steps == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_profile_without_a_gpu_is_one_sentence():
    with pytest.raises(CourseError, match="wants a GPU.*--profile cpu"):
        load_profile("gpu", "03_lora")


def test_a_profile_can_be_copied_and_pickled_and_not_changed():
    settings = load_profile("smoke", "03_lora")
    assert copy.deepcopy(settings) == pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(AttributeError):
        settings.steps = 3


def test_seeding_repeats_and_sets_the_threads():
    settings = load_profile("smoke", "03_lora")
    threads = torch.get_num_threads()
    try:
        settings.seed_everything(3)
        first = torch.rand(3)
        settings.seed_everything(3)
        assert torch.equal(first, torch.rand(3))
        assert torch.get_num_threads() <= settings.threads
    finally:
        torch.set_num_threads(threads)
