"""Linear layers with ReLU between them, and the way of a training through them.

A training sees a row of the table in each *column* of its matrices. What then follows, a softmax
within spans of the outputs or the halves of a posterior, passes over whole rows of memory.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        sizes = itertools.pairwise([inputs, *widths, out])
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs) -> (B, out)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: torch.Tensor = last(x)
        return out

    def across(self, x: torch.Tensor) -> torch.Tensor:
        """The same of columns, computed in the precision of ``x``: (inputs, B) -> (out, B)."""
        out: torch.Tensor = _Across.apply(x, *self.parameters())  # type: ignore[no-untyped-call]
        return out


class _Across(torch.autograd.Function):
    """``Perceptron.across``, its gradients written out.

    Autograd would convert every weight and gradient between the precisions on its own, and keep
    what it does not need: half of the time of a step with layers as small as these.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        x: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """(inputs, B), and a weight and a bias for each layer -> (out, B)."""
        weights = [weight.to(x.dtype) for weight in parameters[::2]]
        biases = [bias.to(x.dtype)[:, None] for bias in parameters[1::2]]
        inputs = [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(torch.addmm(bias, weight, inputs[-1]).relu_())
        ctx.save_for_backward(*inputs, *weights)
        return torch.addmm(biases[-1], weights[-1], inputs[-1])

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        by_out: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        """The gradients by ``x`` and all parameters."""
        layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        by_x, by_parameters = by_out, []
        for at in reversed(range(layers)):
            by_parameters += [by_x.sum(dim=1), by_x @ inputs[at].t()]
            if at or ctx.needs_input_grad[0]:
                by_x = weights[at].t() @ by_x
            if at:  # where ReLU gave 0, it passes nothing on
                by_x = torch.ops.aten.threshold_backward(by_x, inputs[at], 0)
        return by_x if ctx.needs_input_grad[0] else None, *reversed(by_parameters)
