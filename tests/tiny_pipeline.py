"""A pipeline of seconds: a profile with the sizes of a toy, and helpers of its tests."""

import tomllib

from course_lib.alignment.pipeline.running import run_pipeline
from course_lib.alignment.pipeline.settings import load_pipeline

PROFILE = """
device = "cpu"
threads = 1

[pipeline]
model = "tiny-llama"
vocab_size = 320
[pipeline.data_config]
dataset_mix = { worked = 0.6, sums = 0.4 }
tokens_target = 2_048
[pipeline.pretrain]
seq_len = 64
batch_size = 4
lr = 3e-3
log_every = 0
[pipeline.baseline]
log_every = 0
[pipeline.sft]
epochs = 1
batch_size = 8
lr = 2e-3
log_every = 0
[pipeline.dpo]
epochs = 1
batch_size = 4
lr = 1e-4
log_every = 0
[pipeline.problems]
sft = 48
pairs = 24
pair_samples = 12
pairs_each = 2
verifier = 24
verifier_samples = 12
solutions = 10
development = 8
held_out = 12
max_new_tokens = 12
[pipeline.evaluation]
samples = 4
perplexity_on = ["stories"]
perplexity_tokens = 512
long_tokens = 128
sinks = 4
window = 28
curve_points = 2
[pipeline.verifier]
kind = "encoder"
hidden_size = 16
num_hidden_layers = 1
epochs = 1
batch_size = 16
"""


def profile(folder, old="", new="", name="tiny"):
    """The profile as a file, with one line replaced."""
    assert old in PROFILE
    text = PROFILE.replace(old, new, 1) if old else PROFILE
    tomllib.loads(text)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def settings(folder, old="", new="", seed=0):
    return load_pipeline(profile(folder, old, new), seed)


def run(settings, folder, begin_with=None):
    """Run a pipeline; returns its table, and what it said."""
    said = []
    return run_pipeline(settings, folder, begin_with, said.append)["rows"], said
