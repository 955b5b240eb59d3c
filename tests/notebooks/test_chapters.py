"""Every chapter executes on the smoke profile, the solutions of its exercises run after it, and what it recorded is
what the chapter claims."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1600)  # a chapter and its solutions, on a slow machine


def solutions(notebook) -> list[str]:
    """The Python of each solution that has some, in the order of the exercises."""
    folded = re.compile(r'<details class="solution">(.*?)</details>', re.S)
    texts = [found for cell in notebook.cells if cell.cell_type == "markdown" for found in folded.findall(cell.source)]
    code = ["\n".join(re.findall(r"```python\n(.*?)```", text, re.S)) for text in texts]
    return [solution for solution in code if solution]


def execute(chapter: str, out: Path, solved: int) -> tuple[dict, list]:
    """Run a chapter as a user would, and then the solutions of its exercises, as a reader does who tries them.

    Returns what the chapter recorded and its outputs, without those of the solutions. None of them is an error.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    found = solutions(notebook)
    assert len(found) == solved
    for number, code in enumerate(found):
        notebook.cells.append(nbformat.v4.new_code_cell(code, id=f"solution-{number}"))
    folder = out / "with_solutions"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("expected"))  # a chapter may need another
    path = folder / f"{chapter}.ipynb"
    nbformat.write(notebook, path)

    command = [sys.executable, "-m", "course_lib.cli", "run", str(path), "--profile", "smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    recorded = json.loads((out / chapter / "metrics.json").read_text())["recorded"]
    notebook = nbformat.read(out / chapter / "notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = json.dumps([output for output in outputs if output.get("name") != "stderr"])  # warnings name their files
    for path in (str(ROOT), str(out)):
        assert path not in shown, f"no path of this machine on a page: {shown[shown.index(path) - 100 :][:300]}"
    cells = [cell for cell in notebook.cells if not cell.get("id", "").startswith("solution-")]
    return recorded, [output for cell in cells for output in cell.get("outputs", [])]


def pictures(outputs: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.weights
def test_lora_chapter(tmp_path):
    recorded, outputs = execute("03_lora", tmp_path, solved=0)
    assert recorded["numpy_gradient_error"] < 1e-7
    assert recorded["trainable_parameters"] == 460_800
    assert recorded["base_parameters"] == 134_515_008
    assert recorded["change_at_step_0"] == 0.0
    assert recorded["loss_last"] < recorded["loss_first"]
    assert recorded["peft_loss_difference"] < 1e-3  # the band the chapter prints for this profile
    assert recorded["adapter_bytes"] < recorded["base_bytes"] / 200
    assert recorded["gpt2_trained"] == {str(rank): 36_864 * rank for rank in (4, 8, 16, 32)}
    assert recorded["step_difference"] < 1e-4  # the step written out is the Trainer's
    assert pictures(outputs) == 3


@pytest.mark.slow
def test_laboratory_appendix(tmp_path):
    recorded, outputs = execute("90_lora_laboratory", tmp_path, solved=3)
    assert recorded["step_ratio"] == pytest.approx(3.79, rel=0.1)  # equation (eq-step)
    assert recorded["energy_in_8"]["full fine-tuning"] > recorded["energy_in_8"]["random"]
    assert pictures(outputs) == 5


@pytest.mark.slow
def test_butterflies_appendix(tmp_path):
    recorded, outputs = execute("91_butterflies", tmp_path, solved=1)
    assert recorded["orthogonality"] < 1e-5
    assert pictures(outputs) == 2


@pytest.mark.slow
@pytest.mark.weights
def test_full_finetuning_chapter(tmp_path):
    recorded, outputs = execute("02_full_finetuning", tmp_path, solved=8)
    assert recorded["resumed_identical"]
    assert recorded["by_hand_difference"] < 1e-4
    assert recorded["recomputed_difference"] < 1e-5
    assert recorded["bfloat16_apart"]["bfloat16, masters"] < 5e-3  # the band the chapter prints
    unmoved = recorded["bfloat16_unmoved"]
    assert unmoved["bfloat16, plain"] > 2 * unmoved["bfloat16, masters"]
    assert recorded["transformers_difference"] < 1e-3
    assert max(abs(error) for error in recorded["memory_error"].values()) < 0.01
    assert recorded["accumulation_error"]["weighted by tokens"] < 1e-5
    assert recorded["accumulation_error"]["mean of means"] > 0.1
    assert recorded["loss_last"] < recorded["loss_first"]
    assert pictures(outputs) == 8


@pytest.mark.slow
@pytest.mark.weights
def test_merging_chapter(tmp_path):
    recorded, outputs = execute("04_merging", tmp_path, solved=8)
    assert recorded["merge_difference"] < 1e-3 < recorded["adapter_effect"]
    assert recorded["cat_error"] < 1e-6 < 0.01 < recorded["linear_error"]
    assert max(recorded["peft_differences"].values()) < 1e-3
    assert recorded["subtraction_differs"]["float64"] == 0 < recorded["subtraction_differs"]["bfloat16"]
    assert recorded["rounding_share"]["float16"] < recorded["rounding_share"]["bfloat16"]
    assert recorded["merged_bytes"] > 100 * recorded["lora_share_of_parameters"] * recorded["merged_bytes"]
    assert pictures(outputs) == 5


@pytest.mark.slow
@pytest.mark.weights
def test_qlora_chapter(tmp_path):
    recorded, outputs = execute("05_qlora", tmp_path, solved=8)
    errors = {kind: both[0] for kind, both in recorded["errors"].items()}
    assert errors == pytest.approx({"NF4": 0.0728, "FP4": 0.0965, "INT4": 0.0913}, abs=2e-4)  # as published
    assert recorded["constant_bits"] == pytest.approx([0.5, 0.127], abs=5e-5)
    assert set(recorded["agreement"].values()) == {1}  # bitsandbytes' bits in every weight that was compared
    assert recorded["layer_difference"] < 1e-4
    assert recorded["kept_ours"] == 0 < recorded["kept_naive"]
    divergence = {kind: recorded["costs"][f"{kind}/64/False"][1] for kind in ("nf4", "fp4", "int4")}
    assert divergence["nf4"] < min(divergence["fp4"], divergence["int4"])
    assert recorded["at_five_bits"]["SmolLM2"][0] == 0  # its weights are Q4_1: the trap
    assert recorded["peer_relative"] < 1e-3
    assert recorded["merging"]["dequantised base"][0] < 1e-5
    assert min(recorded["merging"][route][0] for route in ("original base", "requantised")) > 0.1
    assert recorded["zero_block"] == 0
    assert recorded["gptq_gain"] > 0
    assert pictures(outputs) == 4


@pytest.mark.slow
@pytest.mark.weights
def test_sft_chapter(tmp_path):
    recorded, outputs = execute("06_sft", tmp_path, solved=9)
    assert max(recorded["numpy_loss_error"], recorded["numpy_gradient_error"]) < 1e-12
    assert recorded["weight_spread"] == pytest.approx(17)  # answers of 34 and of 2 tokens
    assert 0.2 < recorded["trained_share"] < 0.35
    assert recorded["step_difference"] < 1e-4
    # AdamW divides by the gradient's size, so where that is rounding, the update is: 1.06e-4 on one processor
    assert recorded["step_weight_difference"] < 1e-3
    assert recorded["trl_same_tokens"]
    assert recorded["trl_token_difference"] < 1e-4
    assert recorded["trl_relative"] < 1e-3
    assert recorded["results"]["tuned"]["loss"] < recorded["results"]["base"]["loss"]
    assert 0.2 < recorded["padding_share"] < 0.9
    assert recorded["packing"]["together"]["train"][0] < recorded["packing"]["apart"]["train"][0]
    assert set(recorded["mismatch"]) == {"as trained", "no line break", "chat template", "no template"}
    # The three surprises: a second end token, ends that were cut away, and a mean over rows.
    assert recorded["ends"] == {"text": 4, "messages": 3}
    assert recorded["kept_ends"] < 100
    by_rows, rows_by_hand, by_tokens = recorded["evaluation"]
    assert by_rows == pytest.approx(rows_by_hand, rel=1e-4)
    assert abs(by_rows - by_tokens) > 1e-3


@pytest.mark.slow
@pytest.mark.weights
def test_preferences_chapter(tmp_path):
    recorded, outputs = execute("07_preferences", tmp_path, solved=9)
    assert recorded["gradient_error"] < 1e-7
    assert recorded["optimum_gap"] > 0
    assert recorded["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert recorded["loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert recorded["held_out_before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert recorded["trl_apart"] < 1e-4
    assert recorded["same"] < 1e-3
    assert recorded["cache_error"] < 1e-4
    assert "the pairs have changed" in recorded["stale"]
    assert recorded["ipo_turns"] == pytest.approx(10, abs=1)  # 1 / (2 beta)
    assert recorded["lab_loss"] < 1
    assert recorded["auc"] == pytest.approx(recorded["auc_by_couples"], abs=1e-9)
    assert recorded["pass_apart"] < 1e-12
    assert recorded["pass_naive"] < recorded["chosen"]["pass@N"]["8"]
    formula = recorded["kl_formula"]
    assert recorded["kl_simulated"] == pytest.approx(formula, rel=0.05)
    assert all(ours <= bound + 1e-9 for ours, bound in zip(recorded["kl_measured"], formula, strict=True))
    assert recorded["longer"] > 0.6
    assert recorded["chosen_ratio_last"] < 0 < recorded["margin_last"]
    assert "The run diverges" in recorded["stopped"]
    assert recorded["their_prompt"].endswith("Assistant: D")
    assert recorded["our_answer"] == "Duckduckgo keeps no log."
    (off, frozen), (hollow, copied) = recorded["without_base"].values()
    assert [off, frozen, copied] == pytest.approx([math.log(2)] * 3, abs=1e-6)
    assert abs(hollow - math.log(2)) > 1e-3
    assert max(recorded["grpo_apart"], recorded["grpo_library_apart"]) < 1e-5 < abs(recorded["grpo_loss"])
    assert pictures(outputs) == 8


@pytest.mark.slow
@pytest.mark.weights
def test_kv_cache_chapter(tmp_path):
    recorded, outputs = execute("08_kv_cache", tmp_path, solved=11)
    assert recorded["numpy_difference"] < 1e-12  # with the cache and without, by hand
    assert set(recorded["parity_gaps"]) == {"none", "dynamic", "static", "paged"}
    assert max((gap for gaps in recorded["parity_gaps"].values() for gap in gaps), default=0) < 1e-4  # ties alone
    off = recorded["padding_off"]  # of the longer row, and of the padded one
    assert max(off["whole mask, own positions"]) < 1e-3
    assert min(off["mask of the new token alone"]) > 5  # wrong in both rows, and no error
    assert off["no mask"][0] < 1e-3 < 1 < off["no mask"][1]
    assert recorded["cache_bytes"]["static"] == recorded["cache_bytes_formula"] == 46_080
    assert recorded["published_kib"] == {"OPT-13B": 800, "Llama-2-7B": 512, "Llama-3-8B": 128}
    assert abs(recorded["cache_losses"]["int8"] - recorded["cache_losses"]["static"]) < 0.05
    assert recorded["formats"]["int4"]["mb"] < recorded["formats"]["float32"]["mb"] / 5
    assert recorded["formats"]["int4"]["loss"] < recorded["formats"]["float32"]["loss"] + 0.05
    assert recorded["pages_used"] < recorded["pages_alone"]
    assert recorded["story_tables"] == {"A": [0, 1, 3, 5, 6], "C": [0, 1, 2, 9, 10], "D": [11, 4, 7]}
    assert 0.17 < recorded["useful"]["2,048 for each"] < 0.38  # published: 20 to 38 %
    assert recorded["useful"]["pages of 16"] > 0.94  # published: 96 %
    assert recorded["evicted"] > 0
    told = recorded["told"]
    assert told["6 pages of 8"] != told["everything kept"]
    perplexity = recorded["sink_perplexity"]
    assert perplexity["0 sinks"] > 1.2 * perplexity["4 sinks"]
    assert recorded["chi_square"] < 16.3  # the 99.9th percentile on 3 degrees of freedom; the seed is fixed
    assert recorded["kept"] == pytest.approx(recorded["kept_formula"], abs=0.05)
    assert all(round(ours, 2) == stated for ours, stated in recorded["speedup_rows"])
    assert all(row[-1] for row in recorded["speculation"]), "speculation changed a text"
    assert recorded["ties"] == {"top-k 2": [[0, 1, 2], [0, 1, 2]], "top-p 0.75": [[0, 1], [0, 2]]}
    assert recorded["cropped"] < 1e-12 < 1e-3 < recorded["not_cropped"]
    assert recorded["pieces"] == "The ice 🧊 is cold."
    assert set(recorded["refusals"]) == {"used", "small"}
    assert recorded["same_together"]
    assert recorded["refused"] == 404
    assert set(recorded["answered"]) == {"smollm2-135m-instruct", "keeper"}
    assert pictures(outputs) == 5


@pytest.mark.slow
@pytest.mark.weights
def test_cluster_chapter(tmp_path):
    recorded, outputs = execute("09_cluster", tmp_path, solved=10)
    assert len(recorded["stages"]) == 10
    assert recorded["skipped"]
    match = {name: round(100 * value, 1) for name, value in recorded["recorded_match"].items()}
    assert match == {"GPT-2 (same size)": 4.5, "Base": 4.1, "SFT": 16.7, "DPO": 54.1, "+Verifier": 69.3}
    assert recorded["flops_counted"] == recorded["flops_by_hand"]
    assert 1 < recorded["of_six"]["modern-400m/128"] < 1.05 < 5 < recorded["of_six"]["modern-200k/2048"]
    assert set(recorded["predictions"]) == {"tacc_a100", "tacc_h100", "tacc_h100_lonestar6", "tacc_gh200"}
    assert recorded["ring_apart"] < 1e-6
    assert recorded["ring_sent"] == pytest.approx([1, 1], abs=2e-3)  # 2 (n - 1) / n of the vector
    assert recorded["average_errors"]["mean_over_tokens"] < 1e-5 < 0.1 < recorded["average_errors"]["mean_of_means"]
    assert recorded["losses_first_last"][1] < recorded["losses_first_last"][0]
    assert set(recorded["losses_apart"]) == {
        "one process", "two, by hand", "two, moments shared out", "two, DDP", "two, FSDP2",
    }  # fmt: skip
    assert max(recorded["losses_apart"].values()) < 1e-5
    assert recorded["ranks_apart"] == 0
    assert recorded["kept"]["two, FSDP2"] < 0.51 * recorded["kept"]["two, DDP"]
    assert recorded["moments"][1] * 2 == recorded["moments"][0]
    assert set(recorded["explained"]) == {
        "time limit", "out of memory", "bad node", "full disk", "lost rendezvous", "missing module",
    }  # fmt: skip
    assert recorded["provoked"] == {"full_disk": "full disk", "lost_rendezvous": "lost rendezvous"}
    assert recorded["legs"] == 2
    assert recorded["same_as_whole"]
    assert min(recorded["wasted"]) == recorded["wasted"][3]  # at the formula's interval
    assert sum(recorded["refused"].values()) == 6  # TACC's sites refuse what another takes
    assert pictures(outputs) == 3


@pytest.mark.slow
@pytest.mark.weights
def test_datasets_chapter(tmp_path):
    recorded, outputs = execute("01_datasets", tmp_path, solved=9)
    assert recorded["own_answers_pass"] == recorded["own_solutions_pass"] == 1
    assert recorded["overlap"] == recorded["differing_from_trl"] == 0
    assert recorded["differing_by_split_rule"] == 28  # of 200, under GPT-2's rule
    assert recorded["packed_loss_error"] < 1e-5
    waste = recorded["padding_waste"]
    assert waste["length-grouped"] < waste["shuffled"] / 3
    assert waste["packed"] < waste["shuffled"]
    assert pictures(outputs) == 5


@pytest.mark.slow
def test_foundations_chapter(tmp_path):
    recorded, outputs = execute("00_foundations", tmp_path, solved=9)
    assert recorded["gradient_check_error"] < 1e-7
    float64 = ["autograd", "functions", "attention", "adamw"]
    assert max(recorded[f"{what}_torch_difference"] for what in float64) < 1e-12
    assert recorded["gpt_logits_difference"] < 1e-10
    assert recorded["gpt_gradient_difference"] < 1e-10
    assert recorded["float64_loss_difference"] < 1e-10
    assert recorded["loss_last"] < recorded["loss_first"]
    assert recorded["training_torch_difference"] < 1e-3
    assert pictures(outputs) == 11
