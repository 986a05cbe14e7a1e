"""From the options of a command to a DatasetSpec: a declared dataset, or a bare path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from generators import GENERATORS
from generators.base import ParameterError

from .datasets import dataset_names, load_dataset
from .sources import source_for_path
from .spec import DatasetSpec, parse_spec

# A file of one of these names is called after its folder: adult/train.csv is adult-train.
_GENERIC = {"train", "data", "dataset", "real", "table", "images", "test"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user gave on the command line; None or empty means: as declared, or the default."""

    generator: str | None = None
    rows: int | None = None
    seed: int | None = None
    target: str | None = None
    protected: str | None = None
    entity: str | None = None
    settings: Sequence[str] = ()
    kinds: Sequence[str] = ()
    policies: Sequence[str] = ()
    drop: Sequence[str] = ()
    contract: str | None = None
    name: str | None = None
    table: str | None = None
    max_rows: int | None = None
    size: int | None = None


def to_spec(source: str, options: Options) -> DatasetSpec:
    """The spec of a declared dataset, or of a path, with the options laid over it.

    Raises:
        ParameterError: an option is wrong.
        DataError: there is neither a dataset nor a readable path of that name.
    """
    if source in dataset_names():
        raw = load_dataset(source).model_dump(mode="json")
    elif "://" in source or source.startswith("env:"):
        raw = {
            "name": name_of(Path((options.table or "database").rpartition(".")[2])),
            "source": {"kind": "sql", "url": source},
        }
    else:
        path = Path(source)
        if not path.exists() and not path.suffix:
            raise ParameterError(
                f"the source must be a declared dataset ({', '.join(dataset_names())}) or a path; "
                f"{source!r} is neither"
            )
        found = source_for_path(path)
        raw = {"name": name_of(path), "source": found.model_dump(mode="json")}
    if options.table:
        raw["source"] = {**raw["source"], "table": options.table}
    if options.size is not None:
        raw["source"] = {**raw["source"], "size": options.size}
    if options.target and raw["source"]["kind"] == "parquet":
        # What is predicted of images is their class.
        raw["source"] = {**raw["source"], "label": options.target}
    if options.max_rows is not None:
        limits = {**raw["source"].get("limits", {}), "max_rows": options.max_rows}
        raw["source"] = {**raw["source"], "limits": limits}
    return parse_spec(_overlaid(raw, options))


def name_of(path: Path) -> str:
    """A dataset name for a path."""
    stem = path.name if path.is_dir() else path.stem
    absolute = path.absolute()
    if stem.lower() in _GENERIC:
        stem = f"{absolute.parent.name}-{stem}"
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return slug[:63] or "dataset"


def split_pair(text: str, option: str) -> tuple[str, str]:
    """The two sides of ``key=value``.

    Raises:
        ParameterError: there is no ``=``.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ParameterError(f"{option} takes NAME=VALUE, got {text!r}")
    return key, value


def split_names(text: str | None) -> list[str]:
    """Column names separated by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _overlaid(raw: dict[str, Any], options: Options) -> dict[str, Any]:
    plain = {
        key: value
        for key in ("rows", "seed", "target", "contract", "name")
        if (value := getattr(options, key)) is not None
    }
    lists = {
        key: names
        for key in ("protected", "entity")
        if (names := split_names(getattr(options, key)))
    }
    merged = {**raw, **plain, **lists}
    if options.drop:
        merged["drop"] = [*raw.get("drop", ()), *options.drop]
    if options.kinds or options.policies:
        merged["columns"] = _columns(raw.get("columns", {}), options)
    merged["generator"] = _generator(raw.get("generator", {}), options)
    return merged


def _columns(raw: dict[str, Any], options: Options) -> dict[str, Any]:
    columns = {**raw}
    for name, kind in (split_pair(text, "--kind") for text in options.kinds):
        columns[name] = {**columns.get(name, {}), "kind": kind}
    for name, policy in (split_pair(text, "--policy") for text in options.policies):
        action, _, provider = policy.partition(":")
        columns[name] = {**columns.get(name, {}), "policy": action, "fake": provider or None}
    return columns


def _generator(raw: dict[str, Any], options: Options) -> dict[str, Any]:
    settings = settings_of(options.settings)
    name = options.generator or raw.get("name", "auto")
    if name != "auto":
        # Said before a large table is read, not after.
        GENERATORS.require(name)
    # Another family does not take the declared family's parameters.
    declared = raw.get("parameters", {}) if name == raw.get("name", "auto") else {}
    return {"name": name, "parameters": {**declared, **settings}}


def settings_of(texts: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters from the texts of ``--set``.

    Raises:
        ParameterError: one is not NAME=VALUE.
    """
    pairs = (split_pair(text, "--set") for text in texts)
    return {key: _setting(value) for key, value in pairs}


def _setting(text: str) -> Any:  # noqa: ANN401 - any YAML scalar or list
    value = yaml.safe_load(text)
    # YAML 1.1 takes 1e-3 for a string: it wants 1.0e-3.
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
