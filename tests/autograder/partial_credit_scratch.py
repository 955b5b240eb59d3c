"""What typical wrong answers to the first assignments deserve, in points: see `partial_credit`."""

DESERVED = {
    "foundations": {
        "multiply": {
            "leading axes are summed": 2,
            "a's gradient takes b": 1,
            "the value is the product": 2,
            "send_back is returned": 0,
        },
        "walk": {
            "a node waits for its users": 3,
            "and sends once": 3,
            "each node is written down once": 2,
            "gradients add up": 0,
            "all the way": 0,
        },
        "matmul": {"the last two axes are exchanged": 1, "a shared w's gradients add up": 1},
        "embedding": {"an id that is repeated adds up": 1, "a negative id is refused": 1, "the message names it": 1},
        "log-softmax": {"large numbers": 2, "the gradient takes the sum of g": 2, "over the last axis": 0},
        "cross-entropy": {
            "the mean is over what counts": 2,
            "the gradient is divided by N": 2,
            "-100 is not looked up": 1,
            "in words": 2,
            "the loss comes first": 0,
        },
        "layer-norm": {"so does the variance": 2, "the bias is added": 2, "the variance divides by the length": 0},
        "gelu": {"the chain rule": 1, "not the quick one": 0},
        "attention": {"by the root": 1, "large scores": 2, "the future is hidden": 0},
        "block": {"the norm comes first": 2, "the second one, too": 1, "several heads": 2, "it adds to x": 0},
        "gpt": {
            "the head of its own": 3,
            "or the tied one": 1,
            "all the blocks": 1,
            "a text that is too long is refused": 3,
            "the last norm": 0,
        },
        "pair": {"of equal ones the smallest": 1, "twice is enough": 1, "a pair counts twice in a word": 0},
        "merges": {
            "the first id is 256": 2,
            "the next count sees the new token": 2,
            "fewer where nothing occurs twice": 3,
            "the dictionary stays": 0,
        },
        "encode": {"in the order learnt": 1, "merges of merges": 1, "the first merge is 256": 0},
        "decode": {"the bytes are joined first": 1, "a negative id is refused": 1, "one after the other": 0},
        "sgd": {"against the gradient": 1, "not Nesterov's": 1, "w stays": 0},
        "adamw": {
            "uncorrected means are kept": 2,
            "decay shrinks the weight": 2,
            "steps count from 1": 1,
            "m stays": 0,
        },
    },
}
