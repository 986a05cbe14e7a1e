"""Several processes that train one model together: data-parallel, one copy of the weights each.

Every process holds all data, draws the same random numbers, takes its share of each batch, and
averages its gradients with the others': the training is that of one process with the whole batch,
but for dropout and rounding. The processes are those that ``torchrun`` started, or ``helpers``
starts them on this machine: children that get settings and data through a pipe, as safetensors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .base import Generator, Resumable, TrainingError
from .checkpoint import Checkpoint, Parts
from .schema import Images, ImageSchema

_HOST = "127.0.0.1"
_BOTH = "cpu:gloo,cuda:nccl"
_PATIENCE = timedelta(minutes=5)
"""How long the processes of a training wait for each other."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from one of them; alone it is the only one.

    Attributes:
        rank: the number of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The group this process belongs to; joins that of ``torchrun`` where it started us."""
        if dist.is_torchelastic_launched() and not dist.is_initialized():
            # A model on the CPU may be trained on a machine with GPUs.
            dist.init_process_group(_BOTH if torch.cuda.is_available() else "gloo")
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def alone(self) -> Ranks:
        """This process's share of the work without the others: for timing."""
        return _Alone(self.rank, self.size)

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: each takes a GPU of its own, where there are GPUs."""
        if self.size == 1 or device.type == "cpu":
            return device
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        return torch.device("cuda", local % torch.cuda.device_count())

    def share(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of ``tensor`` that this process computes."""
        return tensor if self.size == 1 else tensor[self.rank :: self.size]

    def average(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Replace each tensor by its mean over the processes.

        Raises:
            TrainingError: another process has ended.
        """
        present = [tensor for tensor in tensors if tensor is not None]
        if self.size == 1 or not present:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in present])
        self._reduce(flat, dist.ReduceOp.SUM)
        flat /= self.size
        start = 0
        for tensor in present:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def total(self, value: float, device: torch.device) -> float:
        """The sum of ``value`` over the processes, the same in each."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=device)
        self._reduce(summed, dist.ReduceOp.SUM)
        return float(summed)

    def least(self, value: int, device: torch.device) -> int:
        """The least ``value`` of the processes."""
        if self.size == 1:
            return value
        least = torch.tensor(value, device=device)
        self._reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """``checkpoint`` for this process: the first one writes it, all read it."""
        if checkpoint is None or self.rank == 0:
            return checkpoint
        return _ReadOnly(checkpoint.path, checkpoint.key)

    @staticmethod
    def _reduce(tensor: torch.Tensor, operation: Any) -> None:  # noqa: ANN401 - torch's enum
        try:
            dist.all_reduce(tensor, operation)
        except RuntimeError as error:
            raise TrainingError(
                "all processes of a training must go on to its end, one has ended; the same "
                "command goes on from the last checkpoint"
            ) from error


class _Alone(Ranks):
    """One process that takes its share and waits for nobody."""

    @staticmethod
    def _reduce(tensor: torch.Tensor, operation: Any) -> None:  # noqa: ANN401 - as in Ranks
        pass


class _ReadOnly(Checkpoint):
    """A checkpoint that is another process's to write."""

    @property
    def due(self) -> bool:
        return False

    def save(self, parts: Parts, facts: Any) -> None:  # noqa: ANN401 - as in Checkpoint
        """Nothing."""

    def discard(self) -> None:
        """Nothing."""


@contextmanager
def helpers(generator: Generator, data: Images, schema: ImageSchema, count: int) -> Iterator[None]:
    """Within it, ``count`` - 1 child processes fit the same as this one, which is rank 0.

    Nothing happens where the process belongs to a group already, or ``count`` is 1.

    Raises:
        TrainingError: a child cannot start.
    """
    if count == 1 or Ranks.current().size > 1:
        yield
        return
    backend = _BOTH if torch.cuda.device_count() >= count else "gloo"
    store = TCPStore(_HOST, 0, count, is_master=True, timeout=_PATIENCE, wait_for_workers=False)
    threads = torch.get_num_threads()
    children = []
    try:
        for rank in range(1, count):
            facts = {"rank": rank, "size": count, "port": store.port, "backend": backend}
            children.append(_start(generator, data, schema, facts))
        _await(store, children)
        torch.set_num_threads(max(1, threads // count))
        dist.init_process_group(backend, store=store, rank=0, world_size=count, timeout=_PATIENCE)
        yield
    finally:
        torch.set_num_threads(threads)
        for child in children:
            # It keeps nothing, and a signal to end would wait for a step that never comes.
            child.kill()
            child.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def _await(store: TCPStore, children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all children are there."""
    while not store.check([_ready(rank) for rank in range(1, len(children) + 1)]):
        if any(child.poll() is not None for child in children):
            raise TrainingError(
                "all processes of a training must start, one ended before it began; leave it more "
                "memory or set processes=1"
            )
        time.sleep(0.02)


def _ready(rank: int) -> str:
    return f"ready {rank}"


def _start(
    generator: Generator, data: Images, schema: ImageSchema, facts: dict[str, Any]
) -> subprocess.Popen[bytes]:
    kept = generator.checkpoint if isinstance(generator, Resumable) else None
    order = {
        **facts,
        "family": generator.name,
        "parameters": generator.parameters(),
        "schema": schema.to_json(),
        "threads": max(1, torch.get_num_threads() // facts["size"]),
        "checkpoint": None if kept is None else [str(kept.path), kept.key],
    }
    root = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": root if known is None else os.pathsep.join([root, known]),
        "LOCAL_RANK": str(facts["rank"]),
    }
    command = [sys.executable, "-m", "generators.ranks"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        # What goes wrong in a child shows in its parent, without a traceback full of data.
        stderr=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C is for the parent, which ends its children.
        start_new_session=True,
    )
    if child.stdin is None:
        raise TrainingError("a helper process must take its data through a pipe, it has none")
    arrays = {"pixels": np.ascontiguousarray(data.pixels), "labels": data.labels}
    if data.traits is not None:
        arrays["traits"] = np.ascontiguousarray(data.traits)
    # A child that has ended already is found out by whoever waits for it.
    with suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(save_arrays(arrays, {"order": json.dumps(order)}))
    return child


def _serve() -> None:
    """Take part in a training, as a child of ``helpers``."""
    from . import GENERATORS
    from .schema import schema_from_json

    content = sys.stdin.buffer.read()
    size = int.from_bytes(content[:8], "little")
    order = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["order"])
    arrays = load_arrays(content)
    torch.set_num_threads(order["threads"])
    store = TCPStore(_HOST, order["port"], order["size"], is_master=False, timeout=_PATIENCE)
    store.set(_ready(order["rank"]), "")
    dist.init_process_group(
        order["backend"],
        store=store,
        rank=order["rank"],
        world_size=order["size"],
        timeout=_PATIENCE,
    )
    data = Images(arrays["pixels"], arrays["labels"], traits=arrays.get("traits"))
    schema = schema_from_json(order["schema"])
    generator = GENERATORS[order["family"]].from_parameters(order["parameters"])
    if isinstance(generator, Resumable) and order["checkpoint"] is not None:
        path, key = order["checkpoint"]
        generator.fit_or_resume(data, schema, checkpoint=Checkpoint(Path(path), key))
    else:
        generator.fit(data, schema)
    dist.destroy_process_group()


if __name__ == "__main__":
    _serve()
