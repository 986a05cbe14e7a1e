"""A fitted generator on disk: ``weights.safetensors`` and ``model.json``, never a pickle.

The JSON holds the registry name, the hyper-parameters, the schema and the JSON-able state; the
objects are rebuilt from code, so a file can never make the reader run anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from .base import CheckpointError
from .schema import Schema, schema_from_json

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
    weights = save_arrays({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)})
    model = {
        "format": FORMAT,
        "generator": name,
        "parameters": parameters,
        "schema": json.loads(schema.to_json()),
        "state": state,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / _WEIGHTS).write_bytes(weights)
    text = json.dumps(model, ensure_ascii=False, sort_keys=True, allow_nan=False)
    (folder / _MODEL).write_text(text, encoding="utf-8")


def read(folder: Path) -> SavedModel:
    """Read a model.

    Raises:
        CheckpointError: a file is missing, damaged, or of a newer format.
    """
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
    return SavedModel(
        name=model["generator"],
        parameters=model["parameters"],
        schema=schema_from_json(json.dumps(model["schema"])),
        arrays=arrays,
        state=model["state"],
    )


def model_digest(folder: Path) -> str:
    """SHA-256 over the bytes of a saved model."""
    digest = hashlib.sha256()
    for name in (_MODEL, _WEIGHTS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
