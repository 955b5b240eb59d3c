"""The training loop that a user of transformers and PEFT writes, beside which ours is compared."""

import torch
from torch import nn

from course_lib.training import warmup_cosine


def losses_by_hand(model, batches, lr, warmup_steps):
    """The loss of each step of AdamW without decay, with the norm clipped to 1 and a cosine after the warm-up.

    `batches` has one array of token ids (rows, time) for each step; what requires no gradient stays.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, len(batches), warmup_steps)
    )
    losses = []
    model.train()
    for batch in batches:
        tokens = torch.as_tensor(batch, device=next(model.parameters()).device)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return losses
