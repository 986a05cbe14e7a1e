"""An unfinished training on disk: one safetensors file with its JSON, written atomically.

The file holds what the rest of the training depends on, so that a run that was killed goes on to
the same bytes. It is as private as a model, and like a model it is never a pickle.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from .base import CheckpointError

_FORMAT = 1
_TENSOR, _PAIRS, _TUPLE = "$tensor", "$pairs", "$tuple"


class Stateful(Protocol):
    """A module, an optimiser, an EMA, or anything else with a state to keep."""

    def state_dict(self) -> Any:  # noqa: ANN401 - as torch declares it
        """Tensors, numbers, strings, None, in dictionaries, lists and tuples."""

    def load_state_dict(self, state_dict: Any) -> Any:  # noqa: ANN401
        """Take such a state in."""


Parts = Mapping[str, Stateful | torch.Generator]


@dataclass
class Checkpoint:
    """Where a training keeps its state, and how often.

    Attributes:
        path: the file.
        key: digest of all that decides the result (data, settings, seed, code). A file of another
            key, or of another torch, is not used.
        every: seconds between two writes. The first comes after the first step, so that a place
            that cannot be written shows at once.
    """

    path: Path
    key: str
    every: float = 60.0
    _written: float | None = field(default=None, init=False, repr=False)

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._written is None or time.monotonic() - self._written >= self.every

    def save(self, parts: Parts, facts: Mapping[str, Any]) -> None:
        """Replace the file by the state of now; ``facts`` is JSON-able.

        Raises:
            CheckpointError: the file cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        states = {name: _flat(_state_of(part), arrays) for name, part in parts.items()}
        header = {"format": _FORMAT, "made_for": self._made_for, "facts": facts, "states": states}
        content = save_arrays(arrays, {"checkpoint": json.dumps(header)})
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"a checkpoint must be written to {self.path.parent}, it cannot be "
                f"({type(error).__name__}); make room or allow writing"
            ) from error
        self._written = time.monotonic()

    def facts(self) -> dict[str, Any] | None:
        """The facts of a usable file, else None."""
        found = self._read()
        return None if found is None else found[0]["facts"]

    def restore(self, parts: Parts) -> dict[str, Any] | None:
        """Fill ``parts`` from a usable file and give its facts; None, and nothing else, if none."""
        found = self._read()
        if found is None:
            return None
        header, arrays = found
        for name, part in parts.items():
            state = _deep(header["states"][name], arrays)
            if isinstance(part, torch.Generator):
                part.set_state(state)
            else:
                part.load_state_dict(state)
            if isinstance(part, torch.optim.Optimizer):
                _lay_out(part)
        return dict(header["facts"])

    def discard(self) -> None:
        """Remove the file: the training has ended well."""
        self.path.unlink(missing_ok=True)

    @property
    def _made_for(self) -> list[str]:
        return [self.key, torch.__version__]

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        try:
            with safe_open(self.path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["checkpoint"])
                if header["format"] != _FORMAT or header["made_for"] != self._made_for:
                    return None
                return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError):
            # Missing or damaged: the training simply begins anew.
            return None


def _state_of(part: Stateful | torch.Generator) -> Any:  # noqa: ANN401
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def _lay_out(optimiser: torch.optim.Optimizer) -> None:
    """Give the state the memory layout of its parameters: fused kernels walk both in one order.

    A learning rate that is a tensor goes where the parameters are.
    """
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"] = group["lr"].to(group["params"][0].device)
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _flat(value: Any, arrays: dict[str, np.ndarray]) -> Any:  # noqa: ANN401
    """``value`` as JSON, its tensors moved into ``arrays``."""
    if isinstance(value, torch.Tensor):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value.detach().cpu().numpy()).reshape(-1).copy()
        return {_TENSOR: name, "shape": list(value.shape)}
    if isinstance(value, Mapping):
        # Pairs, since an optimiser's keys are integers.
        return {_PAIRS: [[key, _flat(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_flat(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_flat(item, arrays) for item in value]
    return value


def _deep(value: Any, arrays: dict[str, np.ndarray]) -> Any:  # noqa: ANN401
    """Inverse of ``_flat``."""
    if isinstance(value, list):
        return [_deep(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return torch.from_numpy(arrays[value[_TENSOR]].copy()).reshape(value["shape"])
    if _TUPLE in value:
        return tuple(_deep(item, arrays) for item in value[_TUPLE])
    return {key: _deep(item, arrays) for key, item in value[_PAIRS]}
