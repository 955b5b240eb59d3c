import copy
import json
import pickle

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.execution import load_profile
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.profile import available_profiles, override, profile_path, read_profile

LARGER_PROFILES = ("local_rtx3060", "tacc_a100", "tacc_gh200", "tacc_h100", "tacc_h100_lonestar6")


def test_a_chapter_reads_its_own_table_over_the_shared_settings():
    settings = load_profile("smoke", chapter="03_lora")
    assert settings.device == "cpu"
    assert settings.rank == 8
    assert settings.target_modules == ["q_proj", "v_proj"]
    assert "steps" in repr(settings)


def test_every_profile_has_every_chapter():
    names = available_profiles()
    assert set(names) == {"binder", "cpu", "gpu", "gpu_short", "smoke", *LARGER_PROFILES}
    for name in names:
        tables = read_profile(profile_path(name))
        for chapter in find_chapters([]):
            assert chapter.id in tables, f"{name} does not say how large to run {chapter.id}"
            assert tables[chapter.id].keys() == read_profile(profile_path("cpu"))[chapter.id].keys()


def test_unknown_names_list_what_there_is(tmp_path):
    with pytest.raises(
        CourseError, match="no profile 'fast'. Choose one of binder, cpu, gpu, gpu_short, local_rtx3060, smoke"
    ):
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


class TestExtending:
    def test_a_profile_takes_over_what_it_does_not_say(self, tmp_path):
        own = tmp_path / "mine.toml"
        own.write_text('extends = "cpu"\n["03_lora"]\nsteps = 2\n')
        mine, cpu = load_profile(str(own), "03_lora"), load_profile("cpu", "03_lora")
        assert mine.steps == 2 != cpu.steps
        assert mine.values | {"steps": cpu.steps} == cpu.values

    def test_a_file_beside_it_can_be_extended(self, tmp_path):
        (tmp_path / "base.json").write_text(json.dumps({"device": "cpu", "01_x": {"a": 1, "b": 2}}))
        (tmp_path / "own.toml").write_text('extends = "base.json"\n["01_x"]\nb = 3\n')
        assert read_profile(tmp_path / "own.toml") == {"device": "cpu", "01_x": {"a": 1, "b": 3}}

    def test_a_mix_is_replaced_and_not_overlaid(self):
        mix = read_profile(profile_path("tacc_a100"))["data_config"]["dataset_mix"]
        assert "wikitext2" not in mix

    def test_a_circle_is_refused(self, tmp_path):
        (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
        (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
        with pytest.raises(CourseError, match="a.toml extends itself, by way of b.toml"):
            read_profile(tmp_path / "a.toml")


class TestOverride:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            ("03_lora.steps=50", {"03_lora": {"steps": 50}}),
            ("03_lora.lr = 1e-4", {"03_lora": {"lr": 1e-4}}),  # a number: papermill makes a text of it
            ("device=cuda", {"device": "cuda"}),
            ("slurm.time=02:00:00", {"slurm": {"time": "02:00:00"}}),
            ('x.modules=["a", "b"]', {"x": {"modules": ["a", "b"]}}),
            ("data_config.dataset_mix.wikitext2=0.5", {"data_config": {"dataset_mix": {"wikitext2": 0.5}}}),
            ("hardware.gradient_checkpointing=false", {"hardware": {"gradient_checkpointing": False}}),
        ],
    )
    def test_values_are_read_as_in_toml(self, text, made):
        table = {}
        override(table, text)
        assert table == made

    @pytest.mark.parametrize("text", ["03_lora.steps", "=5", "a..b=1", ".a=1"])
    def test_another_form_is_refused(self, text):
        with pytest.raises(CourseError, match="write it as TABLE.KEY=VALUE"):
            override({}, text)

    def test_a_setting_holds_no_settings(self):
        with pytest.raises(CourseError, match="device is a setting and holds no others"):
            override({"device": "cpu"}, "device.name=1")
