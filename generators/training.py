"""What the neural families share: devices, seeded weights, the training loop, EMA, arrays.

Nothing here reads or moves torch's global random state: every random number comes from a
``torch.Generator`` that was seeded by ``derive_seed``.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import nn

from .base import (
    CheckpointError,
    OnProgress,
    ParameterError,
    Progress,
    TrainingError,
    derive_seed,
)
from .checkpoint import Checkpoint, Parts

M = TypeVar("M", bound=nn.Module)
_REPORT_SECONDS = 0.5
EXPLODED = 1e9
"""No family's loss on scaled data comes near: such a training has diverged though it is finite."""
LOG_EVERY = 50
"""Steps between two readings of the loss, which wait for the device."""
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@runtime_checkable
class SelfInitialising(Protocol):
    """A module that fills its own parameters and buffers."""

    def initialise(self, generator: torch.Generator) -> None:
        """Fill them, with random numbers from ``generator`` alone."""


def resolve_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ParameterError: the name is unknown, or the device is not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ParameterError(
            f"the device must be 'auto', 'cpu' or 'cuda', got {name!r}; choose one of them"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ParameterError(
            f"the device must be 'auto', 'cpu' or 'cuda', got {name!r}; choose one of them"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ParameterError(
            f"the device {name!r} must be on this machine, which has "
            f"{torch.cuda.device_count()} CUDA devices; use 'auto' or 'cpu'"
        )
    return device


def fast_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: twice the speed of float32, or more."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def torch_generator(device: torch.device | str, *parts: object) -> torch.Generator:
    """A generator on ``device`` whose stream depends on all ``parts`` and nothing else."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(*parts))
    return generator


def build(factory: Callable[[], M], device: torch.device | str, generator: torch.Generator) -> M:
    """The module that ``factory`` makes, with weights drawn from ``generator`` alone.

    The module is made on the meta device, so that its constructor draws nothing; then linear and
    convolution layers get torch's default bounds (uniform within 1/sqrt(fan in)), embeddings
    N(0, 1), norms the identity. A layer with the attribute ``zero_init = True`` starts at zero. A
    module with parameters or buffers of its own must have ``initialise(generator)``, which fills
    them. Weights are drawn on the CPU: they are the same on every device.

    Raises:
        TypeError: a module has parameters or buffers that nothing here can initialise.
    """
    with torch.device("meta"):
        module = factory()
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for name, part in module.named_modules():
            _initialise(name or type(module).__name__, part, generator)
    return module.to(device)


def _initialise(name: str, part: nn.Module, generator: torch.Generator) -> None:
    own: list[torch.Tensor] = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    if isinstance(part, SelfInitialising):
        part.initialise(generator)
    elif isinstance(part, _NORMS):
        for tensor in own:
            tensor.zero_()
        for key, tensor in [*part.named_parameters(), *part.named_buffers()]:
            if key in ("weight", "running_var"):
                tensor.fill_(1.0)
    elif isinstance(part, nn.Embedding):
        part.weight.normal_(0.0, 1.0, generator=generator)
        if part.padding_idx is not None:
            part.weight[part.padding_idx].zero_()
        if getattr(part, "zero_init", False):
            part.weight.zero_()
    elif isinstance(part, _AFFINE):
        fan_in = part.weight[0].numel()
        bound = 0.0 if getattr(part, "zero_init", False) else 1.0 / math.sqrt(max(fan_in, 1))
        for tensor in own:
            tensor.uniform_(-bound, bound, generator=generator)
    elif own:
        raise TypeError(
            f"every module with parameters must be one that build knows or have "
            f"initialise(generator); {name} ({type(part).__name__}) has neither: add the method"
        )


def run_steps(
    step: Callable[[int], torch.Tensor],
    total: int,
    *,
    phase: str,
    progress: OnProgress,
    log_every: int = LOG_EVERY,
    checkpoint: Checkpoint | None = None,
    parts: Parts | None = None,
    enough: Callable[[], bool] | None = None,
) -> list[tuple[int, float]]:
    """Call ``step(0) .. step(total - 1)`` and give the losses that were read.

    ``step`` trains once and gives a scalar loss. Reading a loss waits for the device, so it is
    read every ``log_every`` steps and at the end only; progress is reported about twice a second.

    With a ``checkpoint``, the training goes on from it where it is usable, and writes it now and
    then and on SIGINT or SIGTERM, between two steps. The caller discards it once the model is safe.

    Args:
        step: one training step.
        total: number of steps.
        phase: name for the progress.
        progress: called with a ``Progress``.
        log_every: steps between two readings of the loss.
        checkpoint: where to keep the state.
        parts: all that ``step`` changes, by name: modules, optimisers, averages, torch generators.
        enough: asked after each step whether to stop early; its answer must follow from ``parts``.

    Returns:
        Pairs (steps done, loss).

    Raises:
        TrainingError: a loss that was read is not finite, or has exploded.
        CheckpointError: the checkpoint cannot be written.
    """
    kept = parts or {}
    found = checkpoint.restore(kept) if checkpoint is not None else None
    first = 0 if found is None else int(found["done"])
    history = [] if found is None else [(int(at), float(loss)) for at, loss in found["history"]]
    started = reported = time.monotonic()
    loss = history[-1][1] if history else None
    with _deferred_signals(active=checkpoint is not None) as stop:
        for index in range(first, total):
            if enough is not None and enough():
                progress(Progress(phase, index, index, time.monotonic() - started, loss, first))
                break
            tensor = step(index)
            done = index + 1
            if done % log_every == 0 or done == total:
                loss = _finite(tensor, done, total, phase)
                history.append((done, loss))
            if checkpoint is not None and (stop.signal is not None or checkpoint.due):
                checkpoint.save(kept, {"done": done, "total": total, "history": history})
            stop.deliver(f"after step {done:,} of {total:,}; a checkpoint is kept")
            now = time.monotonic()
            if done == total or now - reported >= _REPORT_SECONDS:
                reported = now
                progress(Progress(phase, done, total, now - started, loss, first))
    return history


def _finite(tensor: torch.Tensor, done: int, total: int, phase: str) -> float:
    loss = float(tensor.detach())
    if math.isnan(loss) or abs(loss) > EXPLODED:
        raise TrainingError(
            f"the loss must stay finite and below {EXPLODED:g}, it is {loss:g} "
            f"after step {done} of {total} ({phase}); lower the learning rate"
        )
    return loss


class _Stop:
    """A signal that asked to stop and waits for the end of a step."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.previous: dict[int, Any] = {}

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self.previous:
            number, handler = self.previous.popitem()
            signal.signal(number, handler)

    def ask(self, number: int, _: FrameType | None) -> None:
        """Remember the signal; a second one is not held back."""
        self.signal = number
        self.restore()

    def deliver(self, note: str) -> None:
        """Let the signal do what it would have done without us."""
        if self.signal is None:
            return
        number, self.signal = self.signal, None
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(note) from None


@contextmanager
def _deferred_signals(*, active: bool) -> Iterator[_Stop]:
    """Hold SIGINT and SIGTERM back, where the process listens to them, until ``deliver``."""
    stop = _Stop()
    if active and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                stop.previous[number] = handler
                signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        stop.restore()


def warmup_cosine(step: int, total: int, *, warm_up: float = 0.02) -> float:
    """The factor on the learning rate at ``step``: linear up, then a cosine down to nearly 0.

    Args:
        step: from 0.
        total: length of the training.
        warm_up: share of it in which the rate rises.
    """
    rising = max(1.0, warm_up * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(total - rising, 1.0)))


def steps_for_minutes(
    step: Callable[[int], torch.Tensor], minutes: float, *, seconds: float = 3.0
) -> int:
    """How many steps fit into ``minutes``, by timing real ones for about ``seconds``.

    The caller records the number and trains by it: a schedule on elapsed time would give another
    model at each run. The steps taken here are thrown away with the module they trained.
    """
    for index in range(3):
        float(step(index).detach())
    started, done = time.monotonic(), 0
    while done < 3 or (time.monotonic() - started < seconds and done < 1000):
        float(step(3 + done).detach())
        done += 1
    return max(1, int(60.0 * minutes * done / (time.monotonic() - started)))


def planned_steps(
    trial: Callable[[], tuple[Callable[[int], torch.Tensor], int]],
    max_minutes: float | None,
    checkpoint: Checkpoint | None,
) -> int:
    """The steps that ``trial`` wants, or fewer where ``max_minutes`` says so.

    What an earlier run began stands; then no trial is made.

    Args:
        trial: makes a training that is thrown away, and gives its step and the steps wanted.
        max_minutes: the time to stay within, or None.
        checkpoint: of the earlier run, if any.
    """
    found = checkpoint.facts() if checkpoint is not None else None
    if found is not None:
        return int(found["total"])
    step, total = trial()
    if max_minutes is None:
        return total
    seconds = min(3.0, 6.0 * max_minutes)
    return min(total, steps_for_minutes(step, max_minutes, seconds=seconds))


class BestSoFar:
    """The weights of the evaluation with the lowest loss, and how many have passed since.

    Attributes:
        module: the best weights so far.
        loss: their loss.
        waited: evaluations since then.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.loss = math.inf
        self.waited = 0

    def take(self, module: nn.Module, loss: float) -> None:
        """Take note of ``module``, whose loss is ``loss``; the first counts, whatever its loss."""
        self.waited += 1
        if loss < self.loss:
            self.module.load_state_dict(module.state_dict())
            self.loss, self.waited = loss, 0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"module": self.module.state_dict(), "loss": str(self.loss), "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.module.load_state_dict(state_dict["module"])
        self.loss, self.waited = float(state_dict["loss"]), int(state_dict["waited"])


class EMA:
    """An exponential moving average of a module's parameters.

    Either a power-function average (Karras et al. 2024, arXiv 2312.02696, section 3.1), whose
    width is the relative standard deviation ``sigma_rel`` of its profile and so scales with the
    length of the training; or an average of fixed ``half_life`` in steps, which is shorter at the
    start (at most ``ramp_up`` times the steps done, Karras et al. 2022).

    Attributes:
        module: the averaged module, in evaluation mode and without gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        sigma_rel: float | None = None,
        half_life: float | None = None,
        ramp_up: float = 0.05,
    ) -> None:
        if (sigma_rel is None) == (half_life is None):
            raise ParameterError("an EMA takes sigma_rel or half_life, exactly one of them")
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._source = module
        self._exponent = None if sigma_rel is None else power_gamma(sigma_rel) + 1.0
        self._half_life = half_life
        self._ramp_up = ramp_up
        self.steps = 0

    @torch.no_grad()
    def update(self, steps: int = 1) -> None:
        """Take in the module's parameters of now, ``steps`` training steps after the last call."""
        self.steps += steps
        decay = self._decay(steps)
        averages: list[torch.Tensor] = [*self.module.parameters()]
        current: list[torch.Tensor] = [*self._source.parameters()]
        torch._foreach_lerp_(averages, current, 1.0 - decay)
        for mine, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the parameters and buffers of ``module`` with the averages."""
        module.load_state_dict(self.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of steps they cover."""
        return {"module": self.module.state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.module.load_state_dict(state_dict["module"])
        self.steps = int(state_dict["steps"])

    def _decay(self, steps: int) -> float:
        if self._exponent is not None:
            return float((1.0 - steps / self.steps) ** self._exponent)
        half_life = min(float(self._half_life or 0.0), self._ramp_up * self.steps)
        return float(0.5 ** (steps / max(half_life, 1e-9)))


def power_gamma(sigma_rel: float) -> float:
    """The exponent gamma of the power-function average with relative width ``sigma_rel``.

    Inverse of sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^-(1/2)
    (arXiv 2312.02696, appendix C).

    Raises:
        ParameterError: ``sigma_rel`` is not within (0, 0.28).
    """
    if not 0.0 < sigma_rel < 0.28:
        raise ParameterError(f"sigma_rel must lie within (0, 0.28), got {sigma_rel}; try 0.1")
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def module_arrays(module: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """Parameters and buffers as NumPy arrays, each name after ``prefix``."""
    return {
        f"{prefix}{name}": tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict().items()
    }


def load_module_arrays(module: nn.Module, arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Fill ``module`` with what ``module_arrays`` gave.

    Raises:
        CheckpointError: an array is missing or of another size.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        key = f"{prefix}{name}"
        if key not in arrays or arrays[key].size != tensor.numel():
            found = "none" if key not in arrays else f"{arrays[key].shape}"
            raise CheckpointError(
                f"the model must hold {key} of shape {tuple(tensor.shape)}, found {found}; "
                "fit the model again"
            )
        # A scalar comes back from the file with one dimension.
        state[name] = torch.from_numpy(arrays[key].copy()).reshape(tensor.shape)
    module.load_state_dict(state)
