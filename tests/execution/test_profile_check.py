"""A mistake in a profile is one sentence, before anything runs."""

import copy

import pytest

from course_lib.errors import CourseError
from course_lib.execution import hardware
from course_lib.execution.environment import _cpu_quota, _group_memory
from course_lib.execution.hardware import HardwareConfig, check_against_this_machine, detect, fast_products
from course_lib.execution.profile import available_profiles, profile_path, read_profile
from course_lib.execution.profile_check import check_profile, problems


def changed(*path_and_value):
    table = copy.deepcopy(read_profile(profile_path("tacc_a100")))
    *path, key, value = path_and_value
    inner = table
    for part in path:
        inner = inner[part]
    inner[key] = value
    return table


@pytest.mark.parametrize("name", sorted(available_profiles()))
def test_our_profiles_are_right(name):
    assert list(problems(read_profile(profile_path(name)))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("03_lora", "stepz", 5), "There is no setting 03_lora.stepz. Did you mean steps?"),
        (("03_lora", "learning_rate", 1e-3), "There is no setting 03_lora.learning_rate. Did you mean lr?"),
        (("03_lroa", {"steps": 5}), "There is no table 03_lroa. Did you mean 03_lora?"),
        (("hardware", "num_gpu", 2), "There is no setting hardware.num_gpu. Did you mean num_gpus?"),
        (("data_config", "token_target", 2), "Did you mean tokens_target?"),
        (("03_lora", "steps", "50"), "03_lora.steps = '50' has to be a whole number, such as 32."),
        (("03_lora", "steps", 2.5), "has to be a whole number"),
        (("03_lora", "steps", True), "has to be a whole number"),
        (("03_lora", "lr", "1e-4"), "03_lora.lr = '1e-4' has to be a number"),
        (("03_lora", "target_modules", [1]), "has to be a list of texts"),
        (("hardware", "is_distributed", 1), "has to be true or false"),
        (("slurm", "time", 120), "slurm.time = 120 has to be a text"),
        (("03_lora", "cost", "memory_gb", "much"), "03_lora.cost.memory_gb = 'much' has to be a number"),
    ],
)
def test_mistakes_are_named(change, said):
    found = list(problems(changed(*change)))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("03_lora", "steps", -5), "03_lora.steps = -5 is not possible: it has to be at least 1."),
        (("03_lora", "batch_size", 0), "03_lora.batch_size = 0 is not possible: it has to be at least 1."),
        (("03_lora", "lr", -1e-3), "03_lora.lr = -0.001 is not possible: it has to be above 0."),
        (("03_lora", "lr", float("nan")), "03_lora.lr = nan is not possible: it has to be finite."),
        (
            ("90_lora_laboratory", "full_rates", [1e-3, 0.0]),
            "= [0.001, 0.0] is not possible: each number has to be above 0.",
        ),
        (("03_lora", "rank", 0), "03_lora.rank = 0 is not possible"),
        (("03_lora", "warmup_steps", 500), "03_lora.warmup_steps = 500 is more than 03_lora.steps = "),
        (("00_foundations", "num_heads", 5), "00_foundations.embed_dim = 192 is not a multiple of"),
        (("00_foundations", "vocab_size", 100), "it has to be at least 257"),
        (("03_lora", "cost", "memory_gb", -1.0), "03_lora.cost.memory_gb = -1.0 is not possible: it has to be above 0"),
        (("pipeline", "problems", "short_share", 1.5), "it has to be at most 1"),
        (("model", "batch_size", 0), "model.batch_size = 0 is not possible"),
        (("data_config", "tokens_target", 0), "data_config.tokens_target = 0 is not possible: it has"),
        (("data_config", "dataset_mix", {"tinystories": -1.0}), "dataset_mix gives tinystories the share -1"),
        (("data_config", "dataset_mix", {}), "data_config: dataset_mix names no corpus"),
        (("dtype", "float31"), "dtype = 'float31' is not possible: choose float32 or bfloat16 or float16."),
        (("device", "gpu"), "device = 'gpu' is not possible: choose cpu or cuda."),
        (("slurm", "time", "two hours"), "slurm.time = 'two hours' is not a time limit"),
        (("slurm", "nodes", 0), "slurm.nodes = 0 is not possible"),
        (("threads", 0), "threads = 0 is not possible"),
    ],
)
def test_impossible_values_are_named(change, said):
    found = list(problems(changed(*change)))
    assert said in found[0]


def test_what_may_be_zero_is_taken():
    table = changed("03_lora", "log_every", 0)
    table["03_lora"]["warmup_steps"] = 0
    assert list(problems(table)) == []


def test_all_mistakes_are_said_at_once():
    table = changed("03_lora", "steps", "x")
    table["04_merging"]["pth"] = 3
    with pytest.raises(CourseError, match=r"'mine' cannot be used. 03_lora.steps.*04_merging.pth"):
        check_profile("mine", table)


def test_a_whole_number_serves_for_a_number():
    assert list(problems(changed("03_lora", "alpha", 16))) == []


def test_a_chapter_of_ones_own_has_a_table_of_ones_own():
    table = changed("77_mine", {"anything": [1, "x"]})
    check_profile("mine", table, ["77_mine"])
    with pytest.raises(CourseError, match=r'There is no table \["78_other"\]'):
        check_profile("mine", table, ["77_mine", "78_other"])


class TestHardwareConfig:
    def test_the_seeds_fields_and_defaults(self):
        assert HardwareConfig().as_dict() == {
            "device": "auto",
            "num_gpus": 1,
            "gpu_memory_gb": 12,
            "mixed_precision": "bf16",
            "gradient_checkpointing": True,
            "is_distributed": False,
            "world_size": 1,
        }

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"device": "gpu"}, "choose auto or cpu or cuda or mps"),
            ({"mixed_precision": "bfloat16"}, "choose bf16 or fp16 or no"),
            ({"world_size": 4}, "asks for is_distributed = true"),
            ({"is_distributed": True, "num_gpus": 3, "world_size": 4}, "not a multiple of num_gpus = 3"),
            ({"device": "cpu", "num_gpus": 2}, "contradict each other"),
            ({"num_gpus": -1}, "at least 0"),
        ],
    )
    def test_contradictions_are_refused(self, fields, said):
        with pytest.raises(CourseError, match=said):
            HardwareConfig(**fields)

    def test_an_unknown_field_names_the_nearest(self):
        with pytest.raises(CourseError, match="Did you mean gpu_memory_gb?"):
            HardwareConfig.of({"gpu_memory": 12})

    def test_nodes(self):
        assert HardwareConfig(num_gpus=4, is_distributed=True, world_size=8).nodes == 2
        assert HardwareConfig().nodes == 1


class TestThisMachine:
    @pytest.fixture
    def cuda(self, monkeypatch):
        """A machine with one GPU of 16 GB that has no bf16."""
        import torch

        class Properties:
            total_memory = 16e9

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "a T4")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)

    @pytest.mark.parametrize(
        ("wanted", "said"),
        [
            ({"num_gpus": 4, "is_distributed": True, "world_size": 4}, "wants 4 GPUs and torch sees 1"),
            ({"mixed_precision": "bf16"}, "bf16, which a T4 does not have"),
            ({"mixed_precision": "fp16", "gpu_memory_gb": 40}, "made for GPUs of 40 GB, and this one has 16 GB"),
        ],
    )
    def test_what_it_lacks_is_one_sentence(self, cuda, wanted, said):
        with pytest.raises(CourseError, match=said):
            check_against_this_machine(HardwareConfig(device="cuda", **wanted), "mine")

    def test_what_it_has_is_taken(self, cuda):
        check_against_this_machine(HardwareConfig("cuda", 1, 16, "fp16"), "mine")
        assert detect() == HardwareConfig("cuda", 1, 16.0, "fp16", True)

    def test_without_a_gpu(self, monkeypatch):
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(CourseError, match="wants 1 GPU and torch sees none. Use --profile cpu"):
            check_against_this_machine(HardwareConfig(device="cuda"), "mine")
        assert detect().device in ("cpu", "mps")

    def test_the_processors_instructions(self, tmp_path, monkeypatch):
        info = tmp_path / "cpuinfo"
        info.write_text("processor : 0\nflags : fpu amx_bf16 avx512_vnni\n")
        monkeypatch.setattr(hardware, "Path", lambda path: info)
        assert fast_products() == ["bfloat16 (AMX)", "int8 (AVX-512 VNNI)"]


class TestControlGroups:
    @pytest.mark.parametrize(
        ("files", "cores"),
        [
            ({"cpu.max": "150000 100000\n"}, 1.5),
            ({"cpu.max": "max 100000\n"}, None),
            ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
            ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
            ({}, None),
        ],
    )
    def test_a_quota_of_cores(self, tmp_path, files, cores):
        write(tmp_path, files)
        assert _cpu_quota(tmp_path) == cores

    @pytest.mark.parametrize(
        ("files", "left"),
        [
            ({"memory.max": "1000\n", "memory.current": "400\n"}, [600]),
            ({"memory.max": "max\n", "memory.current": "400\n"}, []),
            ({"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "1200"}, [0]),
            ({}, []),
        ],
    )
    def test_a_limit_of_memory(self, tmp_path, files, left):
        write(tmp_path, files)
        assert _group_memory(tmp_path) == left


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
