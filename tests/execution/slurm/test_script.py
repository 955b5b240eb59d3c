"""Batch scripts and site rules, without Slurm. tests/cluster runs them on a real one."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from course_lib.cli import main
from course_lib.commands.submit import make_job
from course_lib.errors import CourseError
from course_lib.execution.profile import profile_path, read_profile
from course_lib.execution.slurm import jobs
from course_lib.execution.slurm.jobs import cancel, job_number, records, submit
from course_lib.execution.slurm.script import Job, check, render, seconds_of
from course_lib.execution.slurm.site import available_sites, load_site

JOB = Job("lesson", ("run", "03_lora", "--profile", "tacc_h100"), "h100", "02:00:00")
BANNER = """
-----------------------------------------------------------------
            Welcome to the Somewhere Supercomputer
-----------------------------------------------------------------
--> Verifying valid submit host (login1)...OK
--> Checking available allocation (ABC-123)...OK
"""


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def script(job=JOB, site="stampede3", **options):
    return render(job, load_site(site), Path("/work/jobs/1"), Path("/work/course"), **options)


class TestSites:
    @pytest.mark.parametrize("name", sorted(available_sites()))
    def test_each_is_valid_and_says_its_sources(self, name):
        site = load_site(name)
        assert site.description
        assert site.sources["rules"]
        for rule in ("requeue", "signal"):
            assert name == "any" or rule in site.unverified

    def test_tacc_takes_whole_nodes(self):
        for name in ("lonestar6", "stampede3", "vista"):
            site = load_site(name)
            assert not any((site.gres, site.mem, site.requeue, site.submit_from_nodes))

    def test_unknown_names_and_rules(self, tmp_path):
        with pytest.raises(CourseError, match="Did you mean vista?"):
            load_site("visat")
        with pytest.raises(CourseError, match="no rule 'gress'.*Did you mean gres"):
            load_site("vista", ["gress=true"])
        with pytest.raises(CourseError, match="write it as RULE=VALUE"):
            load_site("vista", ["gres"])
        with pytest.raises(CourseError, match="gres = 'maybe' of a site is not possible: it has to be true or false"):
            load_site("vista", ["gres=maybe"])
        assert load_site("vista", ["requeue=true"]).requeue
        own = tmp_path / "mine.toml"
        own.write_text('[rules]\nlauncher = "mpirun"\n')
        with pytest.raises(CourseError, match="choose srun or ibrun or ssh"):
            load_site(str(own))


class TestCheck:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"partition": "h10"}, "no partition 'h10'; it has .*Did you mean h100"),
            ({"nodes": 5}, "takes at most 4 nodes, and this is 5"),
            ({"time": "3-00:00:00"}, "takes at most 48 hours, and this is 72"),
            ({"legs": 9}, "takes at most 4 jobs of one user"),
            ({"requeue": True}, "stampede3 does not requeue jobs.*--legs N"),
            ({"mem": "32G"}, "takes no --mem"),
            ({"time": "two hours"}, "write it as HH:MM:SS"),
            ({"time": "00:04:00", "legs": 2}, "leaves no time before the 300 s"),
            ({"name": "a b"}, "letters, digits, dots and dashes"),
            ({"nodes": -2}, "--nodes -2 is not possible: it has to be at least 1"),
            ({"nodes": 0}, "--nodes 0"),
            ({"legs": -3}, "--legs -3"),
            ({"lead": -5, "legs": 2}, "--lead -5"),
            ({"cpus": -4}, "--cpus-per-task -4"),
            ({"time": "0"}, "needs a time limit above 0"),  # to Slurm it would be no limit
            ({"account": "x; rm"}, "is not a name of a partition, an account or a module"),
            ({"after": "abc"}, "give the number of a job"),
            ({"partition": "skx-dev", "distributed": True}, "has no GPUs"),
        ],
    )
    def test_what_the_site_would_refuse_is_refused_here(self, change, said):
        with pytest.raises(CourseError, match=said):
            check(replace(JOB, **change), load_site("stampede3"))

    def test_the_charge(self):
        remarks = check(replace(JOB, nodes=2, legs=3), load_site("stampede3"))
        assert remarks[0] == (
            "at most 48 units are charged (jobs: 3, nodes: 2, hours: 2, units for each hour of a node: 4)"
        )
        short = check(replace(JOB, time="00:01:00"), load_site("stampede3"))
        assert "at most 1 units" in short[0]  # a quarter of an hour is the least

    def test_what_nobody_verified_is_said(self):
        assert any(remark.startswith("not verified, requeue") for remark in check(JOB, load_site("stampede3")))

    def test_both_ways_to_outlive_a_limit_are_too_many(self):
        with pytest.raises(CourseError, match="choose one"):
            check(replace(JOB, requeue=True, legs=2), load_site("any"))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("30:15", 1815), ("2:30:00", 9000), ("1-0", 86400), ("1-12:30", 131400), ("2-00:00:01", 172801)],
)
def test_slurms_ways_to_write_a_time(time, seconds):
    assert seconds_of(time) == seconds


class TestScript:
    @pytest.mark.parametrize("site", sorted(available_sites()))
    @pytest.mark.parametrize(
        "change",
        [
            {},
            {"distributed": True, "nodes": 2, "gpus": 4, "modules": ("gcc/15.1.0", "python3")},
            {"array": ("03_lora", "04_merging"), "command": ("run", "{}", "--profile", "it's")},
            {"legs": 3, "account": "ABC-123", "cpus": 4},
        ],
    )
    def test_bash_can_read_it(self, site, change):
        text = script(replace(JOB, **change), site)
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        head = text.split("set -u")[0]
        assert not [line for line in head.splitlines() if line.startswith("#SBATCH") and "$" in line]

    def test_options_follow_the_sites_rules(self):
        job = replace(JOB, gpus=4)
        assert "--gres=gpu:4" in script(job, "any")
        assert "--gres" not in script(job, "stampede3")

    def test_launchers(self):
        job = replace(JOB, distributed=True, gpus=2, nodes=2)
        assert "TACC_TASKS_PER_NODE=1 ibrun torchrun" in script(job, "lonestar6")
        assert "srun --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=" in script(job, "vista")
        assert "--nnodes=2 --nproc-per-node=2" in script(job, "vista")

    def test_words_are_quoted(self):
        text = script(replace(JOB, command=("train", "--dataset", "my notes.txt; x", "--output", "$HOME")))
        assert "--dataset 'my notes.txt; x' --output '$HOME'" in text

    def test_words_are_quoted_for_the_other_shell_too(self, tmp_path):
        job = replace(JOB, command=("train", "--dataset", "my notes.txt"), distributed=True, gpus=1)
        text = render(job, load_site("any", ['launcher="ssh"']), tmp_path, tmp_path)
        (line,) = (line for line in text.splitlines() if "course_lib.cli" in line)
        words = shlex.split(line.partition(" &")[0])
        assert shlex.split(" ".join(words))[-3:] == ["train", "--dataset", "my notes.txt"]  # ssh joins them by blanks

    def test_only_the_chapter_stands_for_the_element(self):
        text = script(replace(JOB, array=("03_lora",), command=("run", "{}", "--set", "03_lora.x={}", "--set", "{}")))
        assert """cli run "$word" --set '03_lora.x={}' --set '{}';""" in text

    def test_folders_that_a_comment_cannot_hold(self):
        with pytest.raises(CourseError, match="without blanks, quotes"):
            render(JOB, load_site("any"), Path("/my jobs/1"), Path("/work/course"))

    def test_ones_own_template(self, tmp_path):
        own = tmp_path / "own.j2"
        own.write_text("#!/bin/bash\n# {{ job.partition }} {{ command }}\n")
        assert script(template=own) == "#!/bin/bash\n# h100 run 03_lora --profile tacc_h100\n"
        own.write_text("{{ job.nothing }}")
        with pytest.raises(CourseError, match="cannot be rendered"):
            script(template=own)


class TestSubmitting:
    @pytest.mark.parametrize(
        ("printed", "number"),
        [(f"{BANNER}Submitted batch job 4711\n", "4711"), ("4711;cluster1\n", "4711"), (f"{BANNER}4711", "4711")],
    )
    def test_the_number_is_found_below_a_banner(self, printed, number):
        assert job_number(printed) == number

    def test_no_number(self):
        with pytest.raises(CourseError, match="said no job number"):
            job_number(BANNER)

    def test_a_chain_waits_for_each_leg(self, slurm, tmp_path):
        slurm("sbatch", f"{BANNER}Submitted batch job 4711")
        record = submit(replace(JOB, legs=2), load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)
        assert record["jobs"] == ["4711", "4711"]
        first, second = calls(tmp_path)
        assert "--dependency" not in first
        assert "--dependency=afterany:4711" in second  # a leg that ends at its limit is not "ok"
        assert records(tmp_path / "jobs") == {tmp_path / "jobs" / "a": record}
        assert json.loads((tmp_path / "jobs/a/job.json").read_text())["command"] == list(JOB.command)

    def test_a_refusal_on_stdout_is_passed_on_and_leaves_nothing(self, slurm, tmp_path):
        slurm("sbatch", f"{BANNER}FAILED: no allocation ABC-123", 1)
        with pytest.raises(CourseError, match="sbatch refused:.*no allocation ABC-123"):
            submit(JOB, load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)
        assert not (tmp_path / "jobs" / "a").exists()

    @pytest.mark.parametrize(
        ("refused", "next_step"),
        [
            ("Batch job submission failed: Invalid account or account/partition combination specified", "--account: "),
            ("invalid partition specified: gpu-b200", "--partition: "),
            (
                "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
                "--time: ",
            ),
            ("fatal: Could not establish a configuration source", "to no cluster: "),
        ],
    )
    def test_a_refusal_says_what_to_do_next(self, slurm, tmp_path, refused, next_step):
        slurm("sbatch", f"sbatch: error: {refused}", 1)
        with pytest.raises(CourseError) as error:
            submit(JOB, load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)
        assert refused in str(error.value)
        assert next_step in str(error.value)

    def test_a_refusal_to_cancel_is_said(self, slurm):
        slurm("scancel", "scancel: error: Kill job error on job id 2: Access/permission denied", 1)
        with pytest.raises(CourseError, match="scancel refused:.*permission denied"):
            cancel({"jobs": ["1", "2"]})
        slurm("scancel", "scancel: error: Kill job error on job id 2: Invalid job id specified", 1)
        cancel({"jobs": ["1", "2"]})  # Slurm has forgotten it

    def test_stopped_between_two_legs(self, slurm, tmp_path, monkeypatch):
        slurm("sbatch", "4711")
        slurm("scancel", "")
        monkeypatch.setattr(jobs, "job_number", Mock(side_effect=["4711", KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            submit(replace(JOB, legs=2), load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)
        assert calls(tmp_path)[-1] == "scancel 4711"
        assert not (tmp_path / "jobs" / "a").exists()

    def test_without_slurm(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(CourseError, match="There is no sbatch here: submit from a login node"):
            submit(JOB, load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)


class TestCommand:
    @pytest.mark.parametrize(
        ("words", "inside"),
        [
            (["03", "04"], "course_lib.cli run 03_lora 04_merging --profile tacc_gh200"),
            (["--array"], "words=(00_foundations"),
            (["pipeline"], "pipeline run --profile tacc_gh200"),
            (["--", "train", "--mode", "full", "--output", "runs/x"], "train --mode full --output runs/x"),
            (["--set", "slurm.nodes=2", "pretrain"], "#SBATCH --nodes=2"),
            (["pretrain"], "torchrun --nnodes=4"),
            (["pretrain"], "pretrain --model modern-400m --seq-len 2048 --batch-size 12"),
            (["pretrain"], "--dataset-mix openwebtext=0.8 bookcorpus=0.1 tinystories=0.1 --tokens-target 5000000000"),
            (["--legs", "2", "--", "train", "--output", "runs/x"], "--output runs/x --resume auto"),
        ],
    )
    def test_dry_run(self, capsys, words, inside):
        assert main(["submit", "--profile", "tacc_gh200", "--dry-run", *words]) == 0
        printed = capsys.readouterr()
        assert inside in printed.out
        assert "units are charged" in printed.err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["03"], "the work takes about 2 min: with --time 01:00:00 the job would start sooner"),
            (["--array", "00", "03"], "the longest chapter takes about 2 min: with --time 01:00:00"),
            ([], "with --time 03:00:00"),
        ],
    )
    def test_a_limit_of_days_for_minutes_is_remarked_on(self, capsys, words, said):
        assert main(["submit", *words, "--profile", "tacc_a100", "--dry-run"]) == 0
        assert "the limit is 48:00:00, and " in (remarks := capsys.readouterr().err)
        assert said in remarks

    @pytest.mark.parametrize("words", [["03", "--time", "02:00:00"], ["pretrain"], ["pipeline"]])
    def test_other_limits_are_not(self, capsys, words):
        assert main(["submit", *words, "--profile", "tacc_a100", "--dry-run"]) == 0
        assert "start sooner" not in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["99"], "99"),
            (["lora"], "'lora' is neither a chapter (03, 03_lora or a notebook's path) nor a command of course"),
            (["--", "trian", "--mode", "full"], "Did you mean train?"),
            (["03", "--nodes", "0"], "--nodes 0"),
            (["03", "--lead", "0"], "--lead 0"),
            (["--array", "pipeline"], "--array is for chapters"),
            (["--time", "99:00:00"], "at most 48 hours"),
            (["--site", "mars"], "There is no site 'mars'"),
        ],
    )
    def test_refusals(self, capsys, words, said):
        assert main(["submit", "--profile", "tacc_gh200", "--dry-run", *words]) == 2
        assert said in capsys.readouterr().err

    def test_a_notebooks_path_gives_the_job_its_name(self, capsys):
        assert main(["submit", "notebooks/03_lora.ipynb", "--profile", "tacc_gh200", "--dry-run"]) == 0
        assert "#SBATCH --job-name=03_lora\n" in capsys.readouterr().out

    def test_sites_are_listed_without_a_profile(self, capsys):
        assert main(["submit", "--list-sites"]) == 0
        assert "vista" in capsys.readouterr().out
        assert main(["submit", "03"]) == 2
        assert "Give --profile" in capsys.readouterr().err

    @pytest.mark.parametrize("chapters", [[], ["01_good"]])
    def test_collecting_takes_what_ran_whatever_was_set(self, tmp_path, monkeypatch, chapters):
        """A setting begins with the chapter's number, but it is not a chapter."""
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "pyproject.toml").write_text("")
        monkeypatch.chdir(tmp_path)
        for chapter in ("01_good", "02_other"):
            (tmp_path / "build/run/cpu" / chapter).mkdir(parents=True)
        folder = tmp_path / "build/jobs/a"
        folder.mkdir(parents=True)
        command = ["run", *chapters, "--profile", "cpu", "--set", "01_good.steps=5"]
        record = {"jobs": ["1"], "command": command, "array": [], "submitted": "2026"}
        (folder / "job.json").write_text(json.dumps(record))
        (tmp_path / ".results.partial").mkdir()  # an attempt that was interrupted
        assert main(["jobs", "collect", "1", "--to", "results"]) == 0
        found = {path.name for path in (tmp_path / "results").iterdir()}
        assert found == {"job.json", *(chapters or ["01_good", "02_other"])}

    def test_a_profile_without_slurm(self, capsys):
        assert main(["submit", "03", "--profile", "cpu", "--dry-run"]) == 2
        assert "says no slurm.partition: give --partition" in capsys.readouterr().err

    def test_no_jobs_yet(self, capsys, tmp_path, monkeypatch):
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "pyproject.toml").write_text("")
        monkeypatch.chdir(tmp_path)
        assert main(["jobs"]) == 0
        assert "nothing has been submitted from this clone yet" in capsys.readouterr().out
        assert main(["jobs", "logs", "1"]) == 2
        assert main(["jobs", "cancel"]) == 2

    def test_what_is_submitted_can_be_parsed_by_the_command_that_runs(self, tmp_path, monkeypatch):
        from course_lib.cli import parser

        monkeypatch.setenv("SCRATCH", str(tmp_path))
        for what in (["pipeline"], ["pretrain"], ["03"]):
            args = parser().parse_args(["submit", *what, "--profile", "tacc_h100", "--legs", "2"])
            job = make_job(args, read_profile(profile_path("tacc_h100")), load_site("stampede3"))
            assert callable(parser().parse_args(list(job.command)).run)

    def test_the_pipeline_is_one_process(self, capsys):
        assert main(["submit", "pipeline", "--profile", "tacc_gh200", "--dry-run"]) == 0
        script = capsys.readouterr().out
        assert "#SBATCH --nodes=1" in script
        assert "--nnodes" not in script
