"""AdamW for 16-bit weights, with master weights and moments in float32.

The recipe is that of Micikevicius et al. (2018, arXiv:1710.03740, sec. 3.1).

A bfloat16 number has 8 significant bits: the one after 1.0 is 1.0078. Two things go wrong when a weight w and its
second moment v are kept in it, and neither gives a warning (torch's AdamW keeps its moments in the weights' dtype):

- 1.0 - 0.001 is rounded to 1.0. The update is lost, at this step and at every later one: most weights never move.
- v <- 0.999 v + 0.001 g^2 takes a thousandth of v away where g = 0, and 0.999 v is rounded to v. So v rises with a
  large gradient and never falls again, and the weight's steps stay short.

Here the optimiser keeps a float32 copy of each such weight, its master. Each step copies the gradient up to float32,
updates the master, and copies the master, rounded once, down to the weight. A weight takes 2 (itself) + 2 (gradient) +
4 (master) + 8 (moments) = 16 bytes, as many as in float32: what is halved is the activations and the saved model.

Where the masters begin matters too. `course train` takes them from the file before it rounds (`round_weights`): with
SmolLM2, 12 steps at 5e-5, masters that begin at the rounded weights are 0.12 nats behind autocast on held-out text.

Left out: the gradients of several micro-batches are added in the weights' dtype, where autocast adds them in float32.
tests/training/test_master_weights.py holds it against float32 AdamW and against autocast.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

LOW_PRECISION = (torch.bfloat16, torch.float16)
EXACT = "exact"  # the attribute of a parameter where `round_weights` leaves what it was, until the first step


class MasterWeightAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) whose state is float32 whatever the weights' dtype.

    The state of a 16-bit parameter has its "master" beside "step", "exp_avg" and "exp_avg_sq", all made at its first
    step; a float32 parameter is its own master. Load weights into the model before that step: later the master is what
    counts. Masters begin at the weights, or at what `round_weights` rounded them from.

    Args:
        parameters: tensors, or groups of them with settings of their own (as torch's optimisers take them).
        lr: the learning rate.
        betas: how much of the first and of the second moment is kept at each step.
        eps: added to the root of the second moment.
        weight_decay: the share of a weight that a step at learning rate 1 takes away.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, one after another, so only one gradient at a time is float32.

        Args:
            closure: computes the loss and its gradients again, for callers that expect torch's signature.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self._state_of(parameter)
        master = state.get("master", parameter)
        beta1, beta2 = group["betas"]
        adamw(
            [master],
            [gradient.to(master.dtype)],  # up: float32 holds every 16-bit number exactly
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],  # of AMSGrad, which is off
            [state["step"]],
            fused=can_fuse([master]),
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
        if master is not parameter:
            parameter.copy_(master)  # down: rounded, but no later step starts from the rounded number

    def _state_of(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """A parameter's state, which is made where it is absent.

        A checkpoint of an older version has no master and has moments of 16 bits: they go on from there.
        """
        state = self.state[parameter]
        exact = parameter.__dict__.pop(EXACT, parameter.detach())  # a resumed run has its own: free the memory
        low = parameter.dtype in LOW_PRECISION
        dtype = torch.float32 if low else parameter.dtype
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
        if low and "master" not in state:
            state["master"] = exact.to(parameter.device, dtype)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment].to(dtype)
        state["step"] = state["step"].to(parameter.device)  # the fused update counts where the weight is
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict()` gave, masters and moments in float32.

        torch's own method casts every tensor of the state to its parameter's dtype: the masters would be rounded.
        """
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):  # a state_dict numbers them in this order
            saved = state_dict["state"].get(number, {})
            for name, value in saved.items():
                self.state[parameter][name] = value.detach().to(parameter.device, copy=True)


def round_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round a float32 model's weights to 16 bits; the exact ones become the masters of `MasterWeightAdamW`.

    A master that begins at the rounded weight lies in the middle of the interval of numbers that are rounded to it, and
    the weight stays where it is until the master has left that interval. Exact weights lie anywhere in it, so some of
    them leave it with each step, and the weights move on average as far as their masters do.

    Args:
        model: is changed in place. Its buffers stay as they are.
        dtype: bfloat16 or float16.
    """
    for parameter in model.parameters():
        exact = parameter.detach()
        parameter.data = exact.to(dtype)
        parameter.__dict__[EXACT] = exact


def make_adamw(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW for these parameters: torch's own, or `MasterWeightAdamW` where one of them has 16 bits.

    Args:
        parameters: what is trained.
        lr: the learning rate.
        weight_decay: AdamW's.

    Returns:
        The optimiser.
    """
    if any(parameter.dtype in LOW_PRECISION for parameter in parameters):
        return MasterWeightAdamW(parameters, lr=lr, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=can_fuse(parameters))


def can_fuse(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether AdamW's one-kernel update takes these: floating-point, on a CPU or a GPU, not sharded."""
    return all(p.is_floating_point() and type(p.data) is torch.Tensor for p in parameters)
