"""The declared datasets: ``defs/<name>/defs.yaml``, read without Dagster.

The same file is the definition of a Dagster component; here only its ``attributes`` matter.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from generators.base import ParameterError

from .spec import DatasetSpec, parse_spec

FOLDER = Path(__file__).parent / "defs"
FILE = "defs.yaml"
COMPONENT = "pipelines.components.SyntheticDataset"


def dataset_names(folder: Path = FOLDER) -> list[str]:
    """The names of the declared datasets, sorted."""
    return sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))


def load_dataset(name: str, folder: Path = FOLDER) -> DatasetSpec:
    """The declaration of the dataset ``name``.

    Raises:
        ParameterError: there is none, or its file is wrong; all problems at once.
    """
    names = dataset_names(folder)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(
            f"a declared dataset is one of {', '.join(names) or 'none'}; got {name!r}{hint}"
        )
    path = folder / name / FILE
    raw = _read(path)
    spec = parse_spec(raw)
    if spec.name != name:
        raise ParameterError(
            f"a dataset must be called as its folder, {path} says {spec.name!r}; rename one"
        )
    return spec


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} must be readable YAML: {error}") from error
    attributes = raw.get("attributes") if isinstance(raw, dict) else None
    if not isinstance(attributes, dict) or raw.get("type") != COMPONENT:
        raise ParameterError(
            f"{path} must have `type: {COMPONENT}` and `attributes:`; compare another dataset's"
        )
    return attributes
