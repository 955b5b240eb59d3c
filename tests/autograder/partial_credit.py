"""What typical wrong answers deserve, in points: those of the properties that they have. See `wrong_answers`."""

DESERVED = {
    "lora": {
        "init": {
            "a rank of 0 is refused": 3,
            "scaling is divided by the rank": 3,
            "A is uniform": 2,
            "B has a row for each output": 3,
        },
        "forward": {
            "the change is scaled": 2,
            "the product B A is not formed": 3,
            "nor by einsum": 3,
            "the frozen weight takes part": 2,
            "the weight is transposed": 0,
        },
        "merged-weight": {"the change is scaled": 0, "and not a view": 2, "B stays as it is": 2},
        "lora-parameters": {"a list": 1, "not copies": 1, "both": 0},
        "backward": {"rows add up": 1, "leading axes are flattened": 3, "shaped like A and B": 0},
        "inject-lora": {
            "a target is the whole last part": 4,
            "a second call is refused": 3,
            "with the bias": 3,
            "kept in layers": 2,
        },
        "torch-init": {"scaling is divided by the rank": 2, "B is zero": 2, "refused before the base is frozen": 2},
        "torch-forward": {"the product B A is not formed": 1, "A learns": 1, "the change is scaled": 0},
        "torch-inject-lora": {"the model is frozen": 4, "a rank of 0 is refused": 3, "GPT-2's layers, too": 0},
    },
    "sft": {
        "render": {"a line break behind the end": 1, "the message names the role": 1, "an answer is possible, too": 0},
        "assistant-spans": {"a cut turn is a turn": 2, "with the end token": 0, "in this order": 1},
        "labels": {"one turn where it is asked for": 0, "none at all is refused": 1},
        "fit": {"1 is refused": 1, "prompt first": 0},
        "end-token": {"exactly one": 1},
        "torch-loss": {"0 without labels": 2, "gradients flow": 1, "a mean": 0},
        "step": {"clipped": 1, "the norm before clipping": 2, "labels are shifted": 0},
    },
    "dpo": {
        "log-probs": {"large logits do not overflow": 2, "integers": 0},
        "rewards": {"chosen above rejected": 1, "it has beta once": 1, "times beta": 0},
        "dpo-loss": {"0 is refused": 2, "nor round to 0": 2, "beta": 1},
        "dpo-gradient": {"no overflow": 2, "two arrays": 0},
        "other-losses": {"the message names it": 2, "its margin": 1},
        "objective": {"0 log 0 is 0": 1, "beta": 0},
    },
    "merging": {
        "layers-in": {"no layers are refused": 1, "all of them": 2, "in order": 0},
        "merge": {"layers_in is asked": 3, "float32": 2, "the original is kept": 3, "every layer": 1},
        "unmerge": {"to the bit": 2, "the copy is deleted": 3},
        "swap": {"copies": 2, "a merged model is refused": 2, "each in its place": 0},
        "concatenate": {"no adapter is refused": 3, "weights count": 0},
    },
}
