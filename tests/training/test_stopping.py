"""A run that is asked to stop saves a checkpoint after the step and leaves with a status of its own."""

import pytest
import torch

from course_lib.training import CheckpointConfig, Trainer, TrainingConfig
from course_lib.training.stopping import STATUS, VARIABLE, Stopped


@pytest.fixture
def stop_file(tmp_path, monkeypatch):
    path = tmp_path / "stop"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def trainer(folder=None, after=None):
    """A tiny trainer; `after` is called behind each step."""
    torch.manual_seed(0)
    from course_lib.models.config import CONFIGS
    from course_lib.models.decoder import Decoder

    checkpoints = None if folder is None else CheckpointConfig(folder, every=100)
    made = Trainer(Decoder(CONFIGS["tiny-gpt"]), TrainingConfig(lr=1e-3), checkpoints=checkpoints, log_every=0)
    if after is not None:
        step = made.step

        def stepping(number, *rest):
            record = step(number, *rest)
            after(number)
            return record

        made.step = stepping
    return made


BATCHES = [torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]


def test_it_goes_on_to_the_losses_of_an_uninterrupted_run(tmp_path, stop_file):
    expected = [record.loss for record in trainer(tmp_path / "alone").train(BATCHES)]
    with pytest.raises(Stopped) as stopped:
        trainer(tmp_path / "run", after=lambda number: number == 2 and stop_file.touch()).train(BATCHES)
    assert stopped.value.code == STATUS == 75
    stop_file.unlink()
    resumed = trainer(tmp_path / "run").train(BATCHES, resume=True)
    assert [record.loss for record in resumed][-3:] == expected[-3:]


def test_the_last_step_is_an_ordinary_end(tmp_path, stop_file):
    made = trainer(tmp_path / "run", after=lambda number: number == 5 and stop_file.touch())
    assert len(made.train(BATCHES)) == 6


def test_without_checkpoints_there_is_nothing_to_go_on_from_so_it_does_not_stop(stop_file):
    stop_file.touch()
    assert len(trainer().train(BATCHES)) == 6
