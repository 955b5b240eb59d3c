"""The set-up script, without a network: what it refuses, what it says, and when it has nothing to do."""

import ast
import builtins
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "course_lib" / "setup"


def load_bootstrap() -> ModuleType:
    """The script by its path, as `make` runs it."""
    spec = importlib.util.spec_from_file_location("bootstrap", HERE / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()
venv = bootstrap.virtual_environment


def run(*words: str, path: str | None = None, python: str = sys.executable) -> subprocess.CompletedProcess:
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    command = [python, str(HERE / "bootstrap.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project folder with a .venv as a finished set-up leaves it, but empty."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (tmp_path / ".venv/bin" / name).touch()
    settings = f"version = 3.11.2\ncommand = /usr/bin/python3 -m venv --clear {tmp_path}/.venv\n"
    (tmp_path / ".venv/pyvenv.cfg").write_text(settings)
    return tmp_path


# --- which Python ---


@pytest.mark.parametrize(
    "name", ["bootstrap.py", "virtual_environment.py", "pip_process.py", "torch_build.py", "hosted.py"]
)
def test_an_old_python_can_read_the_script(name):
    ast.parse((HERE / name).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_python_is_told_so_in_one_sentence():
    with pytest.raises(venv.SetupError, match=r"this is Python 3\.8, and the course needs 3\.11 or newer"):
        venv.choose_python((3, 8, 10), names=())


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 0)])
def test_a_tested_python_is_kept(version):
    assert venv.choose_python(version, names=()) is None


def test_a_newer_python_gives_way_to_a_tested_one_but_will_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert venv.choose_python((3, 15, 0), names=("python3.11",)) is None
    tested = tmp_path / "python3.11"
    tested.write_text("#!/bin/sh\necho 3 11\n")
    tested.chmod(0o755)
    assert venv.choose_python((3, 15, 0), names=("python3.11",)) == str(tested)
    assert venv.choose_python((3, 8, 0), names=("python3.11",)) == str(tested)


def test_a_shim_that_does_not_start_is_not_chosen(tmp_path, monkeypatch):
    shim = tmp_path / "python3.11"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(venv.SetupError):
        venv.choose_python((3, 8, 0), names=("python3.11",))


def old_pythons() -> list[str]:
    """Interpreters of 3.6 to 3.10 that start, from the PATH and from pyenv."""
    names = [f"python3.{minor}" for minor in range(6, 11)]
    pyenv = [glob.glob(f"{Path.home()}/.pyenv/versions/{name[6:]}.*/bin/python") for name in names]
    candidates = [path for name in names if (path := shutil.which(name))] + sum(pyenv, [])
    return [path for path in candidates if venv.python_version(path)]


@pytest.mark.skipif(not old_pythons(), reason="no Python older than 3.11 on this machine")
def test_real_old_pythons_say_one_sentence_and_no_traceback(tmp_path):
    for python in old_pythons():
        result = run("setup", python=python, path=str(tmp_path))
        assert result.returncode == 2
        assert result.stderr.startswith("set-up: this is Python 3.")
        assert len(result.stderr.splitlines()) == 1


# --- the machine ---


def test_a_full_disk_is_told_before_anything_is_installed(tmp_path):
    with pytest.raises(venv.SetupError, match=r"1\.0 GB are free .* needs 4\.0 GB"):
        venv.check_machine(str(tmp_path), free_gb=1.0)
    venv.check_machine(str(tmp_path), free_gb=2.0, present_gb=2.2)  # most of it is there already


def test_a_python_without_ensurepip_names_the_debian_package(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_ensurepip(name, *rest, **named):
        if name == "ensurepip":
            raise ImportError(name)
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_ensurepip)
    with pytest.raises(venv.SetupError, match="apt install python3-venv"):
        venv.check_machine(str(tmp_path), free_gb=100.0)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(venv.SetupError, match="no permission to write"):
        venv.check_machine(str(tmp_path), free_gb=100.0)


def test_size_on_disk_counts_a_hard_link_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2_000_000)
    os.link(tmp_path / "a", tmp_path / "b")
    assert venv.folder_gb(str(tmp_path)) == pytest.approx(0.002, rel=0.05)


# --- torch ---


def test_the_torch_pin_is_read_from_the_constraints(checkout):
    assert venv.pinned(str(checkout), "torch") == "torch==2.13.0"
    with pytest.raises(venv.SetupError, match="does not pin jax"):
        venv.pinned(str(checkout), "jax")


# --- the stamp ---


def test_nothing_is_current_before_a_set_up_finished(checkout):
    assert not venv.is_current(str(checkout), ["torch"], "")


def test_a_finished_set_up_is_current(checkout):
    venv.write_stamp(str(checkout), ["torch", "book"], "")
    assert venv.is_current(str(checkout), ["torch"], "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_changed_pins_or_another_python_make_it_stale(checkout, name):
    venv.write_stamp(str(checkout), ["torch"], "")
    with (checkout / name).open("a") as file:
        file.write("\n# changed\n")
    assert not venv.is_current(str(checkout), ["torch"], "")


def test_another_extra_or_torch_index_makes_it_stale(checkout):
    venv.write_stamp(str(checkout), ["torch"], "")
    assert not venv.is_current(str(checkout), ["torch", "gemma"], "")
    assert not venv.is_current(str(checkout), ["torch"], "the CPU index")


def test_a_chosen_torch_index_and_extras_are_remembered(checkout, monkeypatch):
    venv.write_stamp(str(checkout), ["torch", "gemma"], "the CPU index")
    monkeypatch.delenv("EXTRAS", raising=False)
    assert venv.is_current(str(checkout), ["torch"], "")
    assert venv.wanted_extras(venv.read_stamp(str(checkout))) == [*venv.EXTRAS, "gemma"]


def test_a_moved_checkout_needs_a_new_environment(checkout, tmp_path_factory):
    venv.write_stamp(str(checkout), ["torch"], "")
    moved = tmp_path_factory.mktemp("moved") / "course"
    shutil.copytree(checkout, moved)
    assert venv.venv_is_usable(str(checkout))
    assert not venv.venv_is_usable(str(moved))


def test_an_environment_of_an_old_python_is_not_used(checkout):
    settings = checkout / ".venv/pyvenv.cfg"
    settings.write_text(settings.read_text().replace("3.11.2", "3.9.2"))
    assert not venv.venv_is_usable(str(checkout))


def test_a_current_set_up_runs_nothing(checkout, monkeypatch, capsys):
    for name in ("TORCH_INDEX", "EXTRAS"):
        monkeypatch.delenv(name, raising=False)
    venv.write_stamp(str(checkout), list(venv.EXTRAS), "")
    monkeypatch.setattr(venv, "install", lambda *_: pytest.fail("installed again"))
    venv.setup(str(checkout))
    assert capsys.readouterr().out == "set-up is current\n"


def test_a_broken_stamp_counts_as_none(checkout):
    (checkout / ".venv" / venv.STAMP).write_text('{"pins": ')
    assert venv.read_stamp(str(checkout)) == {}


def test_packages_that_a_killed_pip_left_half_written_are_forgotten(checkout):
    library = checkout / ".venv/lib/python3.11/site-packages"
    for name, files in {"whole-1.dist-info": ("INSTALLER", "RECORD"), "half-2.dist-info": ("METADATA",)}.items():
        (library / name).mkdir(parents=True)
        for file in files:
            (library / name / file).touch()
    assert venv.drop_half_installed(str(checkout)) == ["half-2.dist-info"]
    assert [path.name for path in library.iterdir()] == ["whole-1.dist-info"]


# --- failures of pip ---


def test_a_failing_command_shows_the_end_of_its_log_and_the_cause(checkout, capsys):
    (checkout / "build").mkdir()
    script = "print('\\n'.join(map(str, range(40)))); print('OSError: No space left on device'); raise SystemExit(1)"
    with pytest.raises(venv.SetupError, match="the disk is full"):
        venv.run_logged([sys.executable, "-c", script], str(checkout), venv.Progress())
    shown = capsys.readouterr().err.split()
    assert "39" in shown
    assert "20" not in shown
    assert "20\n" in (checkout / "build/setup.log").read_text()


def test_settings_that_would_send_pip_elsewhere_are_dropped(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PIP_TARGET", "elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    environment = venv.clean_environment()
    assert "PYTHONPATH" not in environment
    assert "PIP_TARGET" not in environment
    assert environment["PIP_USER"] == "0"


# --- targets ---


def test_help_lists_each_target_on_one_line_and_make_has_the_same():
    lines = run("help").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(bootstrap.TARGETS)
    assert all(len(line.split()) > 2 for line in lines)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = makefile.split(".PHONY:")[1].splitlines()[0].split()
    assert sorted(phony) == sorted(bootstrap.TARGETS)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_alone_prints_the_help():
    command = ["make", "-C", str(ROOT), "--no-print-directory", "-j", "4", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.stdout == run("help").stdout


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_without_a_python_says_one_sentence():
    command = ["make", "-C", str(ROOT), "PYTHON=no-such-python", "setup"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode != 0
    assert "set-up: there is no no-such-python on this machine: install Python 3.11 or newer" in made.stderr


def test_an_unknown_target_is_named():
    result = run("instal")  # codespell:ignore instal
    assert result.returncode == 2
    assert "there is no target 'instal'" in result.stderr


def test_clean_keeps_what_people_made(checkout):
    kept = ["notebooks/03_lora.ipynb", "autograder/submitted/ada/lora/lora.ipynb", "autograder/gradebook.db"]
    for name in [*kept, "build/book/html/index.html"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    bootstrap.distclean(str(checkout))
    assert all((checkout / name).exists() for name in kept)
    assert not (checkout / "build").exists()
    assert not (checkout / ".venv").exists()


def test_jupyter_writes_inside_the_checkout(checkout):
    environment = bootstrap.work_environment(str(checkout))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        assert environment[name].startswith(f"{checkout}/build/")


def test_the_stamp_is_plain_json(checkout):
    venv.write_stamp(str(checkout), ["torch"], "")
    stamp = json.loads((checkout / ".venv" / venv.STAMP).read_text())
    assert stamp["extras"] == ["torch"]
    assert stamp["root"] == str(checkout)
