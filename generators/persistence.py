"""A fitted generator on disk: ``weights.safetensors`` and ``model.json``, never a pickle.

The JSON holds the registry name, the hyper-parameters, the schema and the JSON-able state; the
objects are rebuilt from code, so a file can never make the reader run anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from .base import CheckpointError
from .schema import Schema, schema_from_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

FORMAT = 2
_WEIGHTS = "weights.safetensors"
_MODEL = "model.json"
_KEYS = {"generator", "parameters", "schema", "state", "weights_sha256"}


@dataclass(frozen=True)
class SavedModel:
    """What a model folder holds."""

    name: str
    parameters: dict[str, Any]
    schema: Schema
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def write(
    folder: Path,
    name: str,
    parameters: dict[str, Any],
    schema: Schema,
    arrays: dict[str, np.ndarray],
    state: dict[str, Any],
) -> None:
    """Write a model; the same model gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "format": FORMAT,
        "generator": name,
        "parameters": parameters,
        "schema": json.loads(schema.to_json()),
        "state": state,
    }
    _write_parts(folder, model, arrays)


def _write_parts(folder: Path, model: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    weights = save_arrays({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)})
    model = {**model, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    (folder / _WEIGHTS).write_bytes(weights)
    text = json.dumps(model, ensure_ascii=False, sort_keys=True, allow_nan=False)
    (folder / _MODEL).write_text(text, encoding="utf-8")


def seal(folder: Path, names: Collection[str], key: bytes) -> None:
    """Make arrays of a saved model unreadable without a key that does not lie beside it.

    Who has the model alone cannot try values against them: the hashes of the rows that were seen
    once, say, would tell of a guessed row whether it was one. AES-SIV (RFC 5297) gives the same
    bytes for the same model and key, and notices another key.

    Args:
        folder: of the model.
        names: of the arrays; those that the model does not have are passed over.
        key: 64 bytes.
    """
    model, arrays = _parts(folder)
    sealed = dict(model.get("sealed", {}))
    # A family that is made of others puts their names before, with a dot.
    for name in sorted(name for name in arrays if name.rpartition(".")[2] in set(names)):
        plain = np.ascontiguousarray(arrays[name])
        if plain.size == 0:
            continue
        hidden = _cipher(key).encrypt(plain.tobytes(), [name.encode()])
        arrays[name] = np.frombuffer(hidden, np.uint8)
        sealed[name] = [str(plain.dtype), *plain.shape]
    _write_parts(folder, {**model, "sealed": sealed}, arrays)


def is_sealed(folder: Path) -> bool:
    """Whether a saved model needs a key.

    Raises:
        CheckpointError: the folder holds no readable model.
    """
    return bool(_parts(folder)[0].get("sealed"))


def _unsealed(model: dict[str, Any], arrays: dict[str, np.ndarray], key: bytes | None) -> None:
    from cryptography.exceptions import InvalidTag

    for name, (dtype, *shape) in model.get("sealed", {}).items():
        if key is None:
            raise CheckpointError(
                "the model was sealed with the secret of the vault that it was fitted in, none was "
                "given; set LIKENESS_HOME to that home"
            )
        try:
            plain = _cipher(key).decrypt(arrays[name].tobytes(), [name.encode()])
        except (InvalidTag, KeyError):
            raise CheckpointError(
                "the model was sealed with the secret of the vault that it was fitted in, this is "
                "another's; set LIKENESS_HOME to that home"
            ) from None
        arrays[name] = np.frombuffer(plain, np.dtype(dtype)).reshape(shape)


def _cipher(key: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(key)


def read(folder: Path, key: bytes | None = None) -> SavedModel:
    """Read a model.

    Args:
        folder: that it lies in.
        key: with which it was sealed, where it was.

    Raises:
        CheckpointError: a file is missing, damaged, or of a newer format, or the model is sealed
            with another key.
    """
    model, arrays = _parts(folder)
    _unsealed(model, arrays, key)
    return SavedModel(
        name=model["generator"],
        parameters=model["parameters"],
        schema=schema_from_json(json.dumps(model["schema"])),
        arrays=arrays,
        state=model["state"],
    )


def _parts(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        model = json.loads((folder / _MODEL).read_text(encoding="utf-8"))
        weights = (folder / _WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"a model folder must hold {_MODEL} and {_WEIGHTS}; "
            f"{folder} could not be read ({type(error).__name__}); fit the model again"
        ) from error
    found = model.get("format") if isinstance(model, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"the model must be of format {FORMAT}, it is {found!r}; fit it again"
        )
    absent = sorted(_KEYS - set(model))
    if absent:
        raise CheckpointError(
            f"{_MODEL} must name {', '.join(sorted(_KEYS))}, it lacks {', '.join(absent)}; "
            "the model is damaged, fit it again"
        )
    if hashlib.sha256(weights).hexdigest() != model["weights_sha256"]:
        raise CheckpointError(
            f"{_WEIGHTS} must match the digest in {_MODEL}, it does not; the model is damaged, "
            "fit it again"
        )
    try:
        arrays = load_arrays(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"{_WEIGHTS} is not a safetensors file; fit the model again"
        ) from error
    return model, arrays


def model_digest(folder: Path) -> str:
    """SHA-256 over the bytes of a saved model."""
    digest = hashlib.sha256()
    for name in (_MODEL, _WEIGHTS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
