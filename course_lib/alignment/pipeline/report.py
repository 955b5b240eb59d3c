"""The report, as report.md and report.html: what was trained, how well it went, on which machine and by which code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_lib.alignment.pipeline import pictures
from course_lib.alignment.pipeline.answers import prompt_of
from course_lib.alignment.pipeline.page import Block, Code, Page, Table, Text
from course_lib.alignment.pipeline.stages import MODEL, Run
from course_lib.alignment.pipeline.state import StageFolder, code_version
from course_lib.alignment.pipeline.table import TITLES, gains, read_json
from course_lib.execution.environment import git_commit, hardware, versions
from course_lib.models.config import DecoderConfig, parameter_count
from course_lib.models.huggingface import read_config

CURVES = {"pretrain": "Pretraining", "baseline": "GPT-2 baseline", "sft": "SFT", "dpo": "DPO", "verifier": "Verifier"}
VERIFIERS = {  # by head; an encoder has none of them
    "last": "the decoder that wrote the answers, with a scalar head in place of the vocabulary's.",
    "tokens": "the decoder that wrote the answers, with a judgement of each token, the worst of which counts. The "
    "judgement begins with how likely the decoder finds the token.",
}
ENCODER = "a small encoder, in which each token sees all others."
SHOWN = 4  # problems with all their samples


def write_report(
    run: Run,
    folder: Path,
    found: dict[str, dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    inference: dict[str, Any],
    stages: Sequence[str],
) -> None:
    """Write report.md, report.html and the pictures.

    Args:
        run: a pipeline whose stages are done.
        folder: the folder of the results.
        found: the evaluations by name.
        rows: the rows of the comparison table.
        inference: what inference_ok.json says.
        stages: the names of the stages, in order.
    """
    page = Page("Base → SFT → DPO → +Verifier")
    page.add("Results", *_results(found, rows))
    page.add("Architecture", *_architecture(run, found))
    page.add("Curves", *_curves(run))
    page.add("The verifier", *_verifier(run, found))
    page.add("A text beyond the window", *_long(found))
    page.add("Attention", *_attention(run, found))
    page.add("Samples", *_samples(found))
    page.add("A small machine", *_inference(inference))
    page.add("How it was made", *_made(run, stages))
    page.write(folder)


def _results(found: dict[str, dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[Block]:
    samples = found["dpo"]["samples"]
    head = [
        "model",
        "exact match",
        "95 % interval",
        "one sample",
        "majority",
        "verifier",
        "weighted vote",
        f"pass@{samples['count']}",
    ]
    cells = [
        [
            row["model"],
            f"{row['exact_match']:.1%}",
            f"{row['exact_match_low']:.1%} to {row['exact_match_high']:.1%}",
            *(
                _percent(row[key])
                for key in ("one_sample", "majority", "verifier_exact_match", "weighted_vote", "pass_at_n")
            ),
        ]
        for row in rows
    ]
    texts = list(found["dpo"]["perplexity"])
    words = [
        [
            row["model"],
            *(f"{about['perplexity'][text]['perplexity']:.2f}" for text in texts),
            *(f"{about['perplexity'][text]['word_perplexity']:.1f}" for text in texts),
        ]
        for row, about in zip(rows, (found[name] for name in TITLES), strict=True)
    ]
    plain = found["base"].get("exact_match_plain_prompt")
    return [
        Text(
            f"Exact match on {rows[0]['problems']:,} problems that no stage was trained or tuned on: the likeliest "
            f"answer of each model, and for +Verifier the one of {samples['count']} samples of the DPO model, drawn at "
            f"temperature {samples['temperature']:g}, that the verifier prefers. The other ways of choosing from the "
            "same samples stand beside it: the first sample alone, the vote of the majority, and the vote in which the "
            "verifier's scores are added up. A problem counts as solved where the number after the last #### is right. "
            "Intervals are Wilson's."
        ),
        Table(head, cells),
        *([pictures.match_bars(rows)] if _can_draw() else []),
        Text(" ".join(gains(rows))),
        Text(
            f"All models get the same prompt, which the base has never seen. With the question alone as its prompt the "
            f"base solves {plain['value']:.1%} ({plain['low']:.1%} to {plain['high']:.1%})."
            if plain
            else "The base was not asked without the template."
        ),
        Text("Perplexity on held-out text, by token and by word; only words compare models of other tokenizers."),
        Table(["model", *texts, *(f"{text}, by word" for text in texts)], words),
    ]


def _architecture(run: Run, found: dict[str, dict[str, Any]]) -> list[Block]:
    shapes = {
        "decoder": read_config(run.model_folder("dpo")),
        "GPT-2 (same size)": read_config(run.model_folder("baseline")),
    }
    names = ["parameters", "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings", "vocab_size"]  # fmt: skip
    rows = [[name, *(_shape(config, name) for config in shapes.values())] for name in names]
    verifier = found["verifier"]
    return [
        Table(["", *shapes], rows),
        Text(
            "The decoder has Llama's parts: RMSNorm, rotary positions, grouped queries, SwiGLU and a tied head. The "
            f"verifier is of kind {verifier['kind']!r} with {verifier['verifier_parameters']:,} parameters: "
            + (ENCODER if verifier["kind"] == "encoder" else VERIFIERS[verifier["head"]])
        ),
    ]


def _shape(config: DecoderConfig, name: str) -> str:
    value = parameter_count(config) if name == "parameters" else getattr(config, name)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _curves(run: Run) -> list[Block]:
    if not _can_draw():
        return [Text("Pictures are missing: matplotlib is not installed (pip install '.[book]').")]
    drawn: list[Block] = []
    for stage, title in CURVES.items():
        folder = run.folder / stage
        curve: Any = read_json(folder / "curve.json") if (folder / "curve.json").is_file() else []
        log = folder / MODEL if (folder / MODEL / "log.jsonl").is_file() else folder
        picture = pictures.stage_curves(f"curves_{stage}", title, log, curve)
        drawn += [picture] if picture else []
    return drawn


def _verifier(run: Run, found: dict[str, dict[str, Any]]) -> list[Block]:
    about = found["verifier"]
    judging = about["judging"]
    if judging is None:
        return [
            Text(_learnt_from(run, about)),
            Text("All sampled answers to the held-out problems are right, or all are wrong: there is no AUC."),
        ]
    within = "–" if judging["within"] is None else f"{judging['within']:.3f}"
    rows = [
        ["AUC", f"{judging['auc']:.3f}"],
        ["AUC among the answers to one problem", within],
        ["expected calibration error", f"{judging['ece']:.3f}"],
        ["accuracy at one half", f"{judging['accuracy']:.1%}"],
        ["answers", f"{judging['answers']:,}"],
        ["share of right answers", f"{judging['right']:.1%}"],
    ]
    drawn = [pictures.calibration(about["reliability"])] if _can_draw() and about["reliability"] else []
    return [
        Text(_learnt_from(run, about)),
        Text("On the DPO model's samples to the held-out problems:"),
        Table(["", "value"], rows),
        *drawn,
    ]


def _learnt_from(run: Run, about: dict[str, Any]) -> str:
    """Say what the verifier was trained on."""
    p, v, alone = run.settings.problems, run.settings.verifier, about.get("alone")
    text = (
        f"The verifier learnt from {p.verifier_samples} sampled answers to each of {p.verifier:,} training problems, "
        "which the exact check had judged"
    )
    if p.solutions:
        text += f", and from the worked solutions of {p.solutions:,} problems of the stages before, as right answers"
    text += "."
    if v.lm_weight:
        text += (
            " Beside the judgement it minimised the language model's loss on right answers. Its gain is therefore also "
            "that of a language model which has read more solutions with the work shown than the one that wrote the "
            "answers."
        )
    if alone:
        text += (
            f" Asked itself, that language model solves {alone['value']:.1%} "
            "of the held-out problems: fine-tuning on as many solutions would be the better use of them."
            if alone["value"] > about["exact_match"]["value"]
            else f" Asked itself, that language model solves {alone['value']:.1%} of the held-out problems."
        )
    return text


def _long(found: dict[str, dict[str, Any]]) -> list[Block]:
    rows = []
    for name in ("base", "sft", "dpo"):
        long = found[name]["long_context"]
        quarters = " → ".join(f"{value:.1f}" for value in long["on_by_quarter"])
        rows.append([name, *(f"{long[key]:.2f}" for key in ("on", "off", "all")), quarters])
    long = found["dpo"]["long_context"]
    return [
        Text(
            f"Perplexity of {long['tokens']:,} tokens of one text, read with a window: `sink` on keeps the first "
            f"{long['sinks']} tokens and the last {long['window']}, off the last {long['sinks'] + long['window']}, and "
            "'all' drops nothing, so that its positions go beyond those of the training."
        ),
        Table(["model", "sink on", "sink off", "all", "sink on, by quarter of the text"], rows),
    ]


def _attention(run: Run, found: dict[str, dict[str, Any]]) -> list[Block]:
    if not _can_draw() or not found["dpo"]["examples"]:
        return [Text("There is no picture of the attention.")]
    example, tokenizer = found["dpo"]["examples"][0], run.tokenizer()
    text = prompt_of(tokenizer, example["question"]) + example["greedy"]
    model = run.decoder("dpo")
    return [Text("The DPO model on a problem with its own answer."), Code(text),
            pictures.attention_maps(model, tokenizer, text)]  # fmt: skip


def _samples(found: dict[str, dict[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    for number, example in enumerate(found["dpo"]["examples"][:SHOWN]):
        lines = [example["question"], f"answer: {example['answer']}", ""]
        for name in ("base", "sft", "dpo"):
            greedy = found[name]["examples"][number]
            lines.append(f"{name:5} {_mark(greedy['greedy_right'])} {_one_line(greedy['greedy'])}")
        lines.append("samples of dpo, by the verifier's score:")
        order = sorted(range(len(example["samples"])), key=lambda i: -example["scores"][i])
        lines += [
            f"{example['scores'][i]:5.3f} {_mark(example['right'][i])} {_one_line(example['samples'][i])}"
            for i in order
        ]
        blocks.append(Code("\n".join(lines)))
    return blocks or [Text("Samples were not kept.")]


def _mark(right: bool) -> str:
    return "right" if right else "wrong"


def _one_line(text: str) -> str:
    return text.replace("\n", " ↵ ")


def _inference(inference: dict[str, Any]) -> list[Block]:
    machine = inference["hardware"]
    return [
        Text(
            f"The checkpoint of stage {inference['stage']}, trained with the profile "
            f"{inference['trained_on_profile']}, was loaded on {inference['device']} ({machine['cpu']}, "
            f"{machine['cores']} cores) in {inference['load_seconds']:.2f} s and wrote {inference['new_tokens']:,} "
            f"tokens in {inference['generate_seconds']:.2f} s; {inference['right']:.0%} of "
            f"{len(inference['problems'])} problems were right."
        ),
        Code(inference["continuation"]),
    ]


def _made(run: Run, stages: Sequence[str]) -> list[Block]:
    times, total = [], 0.0
    for stage in stages:
        record = StageFolder(run.folder / stage).record() or {}
        total += record.get("cpu_seconds", 0.0)
        times.append([stage, f"{record.get('seconds', 0):.0f}", f"{record.get('cpu_seconds', 0):.0f}"])
    times.append(["together", "", f"{total:.0f}"])
    machine, s = hardware(), run.settings
    memory = machine["memory_bytes"]
    facts = [
        ["profile", s.profile],
        ["seed", str(s.seed)],
        ["processor", f"{machine['cpu']}, {machine['cores']} cores"],
        ["memory", f"{memory / 1e9:.1f} GB" if memory else "unknown"],
        ["GPUs", ", ".join(machine["gpus"]) or "none"],
        ["commit", git_commit(Path(__file__).parent) or "not in a git repository"],
        ["code", code_version()],
        *([name, version] for name, version in versions().items()),
    ]
    mix = run.settings.data_config["dataset_mix"]
    data = [[name, f"{share / sum(mix.values()):.0%}"] for name, share in mix.items()]
    return [
        Table(["stage", "seconds", "processor seconds"], times),
        Text(f"Pretraining read {s.data_config['tokens_target']:,} tokens of this mix:"),
        Table(["corpus", "share"], data),
        Table(["", "value"], facts),
    ]


def _can_draw() -> bool:
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
