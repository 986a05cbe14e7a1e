"""Features of a pretrained network whose weights the user has on disk: DINOv2, Inception, others.

Nothing is downloaded. The file is a TorchScript module, or a program of ``torch.export`` (.pt2);
both carry their own architecture. Its SHA-256 must be given, since such a file is a program and
since a number in other features is another number.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from generators.base import ParameterError
from generators.schema import Images

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_BATCH = 64


class _Network(Protocol):
    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Encoder:
    """A pretrained network from a file.

    Attributes:
        path: the file.
        sha256: what its bytes must hash to.
        side: images are resized to this many pixels a side (bicubic, antialiased).
        images: of each part that are encoded, at most.
    """

    path: Path
    sha256: str
    side: int = 224
    images: int = 2_000

    @property
    def name(self) -> str:
        """The file's name and the first digits of its hash."""
        return f"{self.path.stem} ({self.sha256[:8]})"

    def check(self) -> None:
        """Read the file, so that a wrong one is told before anything is measured.

        Raises:
            ParameterError: the file has another hash, or is no network.
        """
        _ = self._network

    def encode(self, images: Images) -> np.ndarray:
        """Features, float64, shape (N, F).

        The network is given float32 (N, 3, side, side), scaled as ImageNet's networks expect it
        (mean .485, .456, .406 and deviation .229, .224, .225 of values from 0 to 1); grey images
        are repeated, alpha is dropped.

        Raises:
            ParameterError: the file has another hash, is no network, or gives no features.
        """
        network = self._network
        found = []
        for start in range(0, len(images), _BATCH):
            batch = self._prepared(images.pixels[start : start + _BATCH])
            with torch.no_grad():
                features = self._run(network, batch)
            found.append(features.double().numpy())
        return np.concatenate(found)

    @cached_property
    def _network(self) -> _Network:
        content = self._content()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256.lower():
            raise ParameterError(
                f"the encoder {self.path.name} must have the SHA-256 {self.sha256[:12]}…, it has "
                f"{found}; give that one if you trust the file"
            )
        why = "it is no archive"
        # Looked at first: torch's readers complain at length about anything else.
        if zipfile.is_zipfile(io.BytesIO(content)):
            try:
                return _loaded(io.BytesIO(content), exported=self.path.suffix == ".pt2")
            except (RuntimeError, ValueError, OSError, KeyError) as error:
                why = type(error).__name__
        raise ParameterError(
            f"the encoder {self.path.name} must be a TorchScript file or a program of "
            f"torch.export (.pt2), it cannot be read ({why}); export it again"
        )

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            raise ParameterError(
                f"the encoder must be a readable file, {self.path} is not; check the path"
            ) from None

    def _run(self, network: _Network, batch: torch.Tensor) -> torch.Tensor:
        try:
            features = network(batch)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ParameterError(
                f"the encoder {self.path.name} must take float32 images of shape "
                f"{tuple(batch.shape)}, it does not ({type(error).__name__}); wrap it"
            ) from None
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or features.shape[1] < 2:
            raise ParameterError(
                f"the encoder {self.path.name} must give one vector of features an image; wrap it"
            )
        return features.cpu()

    def _prepared(self, pixels: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 255
        values = values.repeat(1, 3, 1, 1) if values.shape[1] == 1 else values[:, :3]
        resized = functional.interpolate(
            values, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in (_MEAN, _DEVIATION))
        return ((resized - mean) / deviation).contiguous()


def _loaded(content: io.BytesIO, *, exported: bool) -> _Network:
    if exported:
        program: _Network = torch.export.load(content).module()
        return program
    with warnings.catch_warnings():
        # Deprecated for export, yet the form in which DINOv2 and Inception are handed on.
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(content, map_location="cpu")  # type: ignore[no-untyped-call]
    scripted: _Network = module.eval()
    return scripted
