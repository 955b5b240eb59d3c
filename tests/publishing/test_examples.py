"""The examples in docstrings, which the API reference shows, run and print what they say."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"(?m)^ *>>> ")  # at the beginning of a line: one module looks for them in others
MODULES = [path for path in sorted((ROOT / "course_lib").rglob("*.py")) if EXAMPLE.search(path.read_text("utf-8"))]
# What a reader meets first in each room.
MAIN = {
    "adapters.lora": ["LoRALinear", "inject_lora", "lora_parameter_count", "lora_scaling"],
    "adapters.merge": ["merge"],
    "adapters.butterfly": ["ButterflyRotation", "butterfly_parameter_count"],
    "alignment.dpo": ["dpo_loss", "reward_metrics"],
    "alignment.grpo": ["group_advantages", "grpo_loss"],
    "alignment.grpo_run": ["train_grpo"],
    "alignment.guard": ["DivergenceGuard"],
    "alignment.log_probs": ["sequence_log_probs"],
    "alignment.objective": ["PreferenceObjective"],
    "alignment.pairs": ["encode_pairs", "collate_pairs", "pair_mask"],
    "alignment.reference": ["AdapterOff"],
    "alignment.reranking": ["majority_vote", "weighted_vote", "best_of_n_kl_bound", "Share"],
    "alignment.sampled_pairs": ["make_pairs"],
    "alignment.sft": ["Supervised", "packed_rows"],
    "alignment.verifier": ["split_by_problem", "evaluate_scores", "fit_temperature"],
    "data.batching": ["padding_waste", "plan_packing"],
    "data.templates": ["InstructionFormatter"],
    "data.text": ["batches"],
    "evaluation.comparison": ["Comparison"],
    "evaluation.pass_at_k": ["pass_at_k"],
    "evaluation.perplexity": ["perplexity"],
    "execution.profile": ["load_profile"],
    "execution.slurm.causes": ["explain"],
    "execution.slurm.jobs": ["job_number"],
    "execution.slurm.script": ["Job", "seconds_of", "check", "render"],
    "execution.slurm.site": ["load_site"],
    "inference.caches.base": ["kv_bytes_per_token"],
    "inference.caches.making": ["make_cache"],
    "inference.caches.pages": ["PagePool", "useful_share"],
    "inference.generate": ["generate"],
    "inference.pieces": ["TextPieces"],
    "inference.prepared": ["prepare"],
    "inference.sampling": ["SamplingSettings", "keep_top_k", "keep_top_p", "keep_min_p", "sample"],
    "inference.speculation": ["PromptLookup", "generate_speculatively", "expected_tokens", "expected_speedup"],
    "inference.stopping": ["Row"],
    "quantization.tensor": ["quantize_4bit"],
    "scratch.functional": ["cross_entropy"],
    "scratch.preferences": ["dpo_loss"],
    "scratch.tensor": ["Tensor"],
    "scratch.tokenizer": ["BPETokenizer"],
    "tables": ["Table"],
    "training.config": ["TrainingConfig"],
    "training.loss": ["next_token_loss"],
    "training.schedule": ["warmup_cosine"],
    "training.trainer": ["Trainer"],
}


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_examples_print_what_they_say(path):
    found = doctest.testmod(importlib.import_module(dotted(path)), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted > 0


@pytest.mark.parametrize("module", MAIN)
def test_what_a_reader_meets_first_has_an_example(module):
    path = ROOT / "course_lib" / f"{module.replace('.', '/')}.py"
    named = {getattr(node, "name", None): node for node in ast.parse(path.read_text(encoding="utf-8")).body}
    assert [name for name in MAIN[module] if ">>>" not in ast.get_docstring(named[name])] == []
