"""A training step on a GPU as one CUDA graph.

A step of a small network is hundreds of kernels of a few microseconds each; launching them one by
one takes several times as long as running them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

_WARM_UP = 2
"""Calls before the recording, in which libraries and optimisers make what they keep."""


class Replayed:
    """Work on tensors that a GPU repeats from a recording; on a CPU it is simply called.

    It is one of the parts of a training: to load a state forgets the recording, because optimisers
    hold other tensors then. Whoever changes a number that the work reads on the host, such as a
    learning rate, loads a state first or keeps that number in a tensor (see ``changeable``).

    Args:
        work: gives one tensor. It does the same at every call, to tensors of the same shapes, looks
            at no value on the host, and its optimisers are ``capturable``.
        random: the one generator that the work draws from, on its device.
    """

    def __init__(self, work: Callable[..., torch.Tensor], random: torch.Generator) -> None:
        self._work, self._random = work, random
        self._called = 0
        self._recording: _Recording | None = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the work gives of ``inputs``; on a GPU it stands until the next call."""
        device = self._random.device
        if device.type != "cuda":
            return self._work(*inputs)
        self._called += 1
        if self._called <= _WARM_UP:
            return self._beside(torch.cuda.Stream(device), inputs)  # type: ignore[no-untyped-call]
        if self._recording is None:
            self._recording = self._record(inputs)
        return self._recording.play(inputs)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a recording is made anew."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: ARG002
        """Forget the recording."""
        self._called, self._recording = 0, None

    def _beside(self, stream: torch.cuda.Stream, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The work on another stream, as CUDA wants it before a recording."""
        here = torch.cuda.current_stream(stream.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            output = self._work(*inputs)
        here.wait_stream(stream)
        return output

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._random)
        kept = tuple(given.clone() for given in inputs)
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._work(*kept)
        return _Recording(graph, kept, output)


@dataclass(frozen=True)
class _Recording:
    """A graph, the tensors that it reads its inputs from, and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, ...]
    output: torch.Tensor

    def play(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Repeat the work on ``inputs``."""
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self.output


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """These numbers on a device, copied there once: a recording cannot copy from the host."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=dtype, device=device)


def changeable(number: float, device: torch.device) -> float | torch.Tensor:
    """A number for an optimiser that changes between steps: on a GPU a tensor, read by replays."""
    return torch.tensor(number, device=device) if device.type == "cuda" else number


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step have this learning rate, also where it is replayed."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def replayable(device: torch.device) -> dict[str, Any]:
    """Settings of a torch optimiser whose steps are replayed on this device."""
    return {"fused": True, "capturable": device.type == "cuda"}
