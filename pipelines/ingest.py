"""Raw data -> checked, split by subject, protected: what the vault holds and the rest works on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from generators.base import DataError, ParameterError, derive_seed
from generators.schema import Images, ImageSchema, Schema, TableSchema

from .home import Home, canonical_json, whole_folder
from .protection import OTHER, Protection, fit_protection
from .protection.leaks import Sensitive, sensitive_values
from .release import PROTECTION, SENSITIVE, RealData, as_schema, remember_real, write_data
from .sources import RawImages, RawTable
from .spec import ColumnSpec, DatasetSpec

MIN_ROWS = 50
# Of what lies in the vault beside the rows; another one makes old folders be written anew.
_FORMAT = 5


@dataclass(frozen=True)
class Split:
    """Train and holdout with their schema, before they are stored."""

    train: pd.DataFrame | Images
    holdout: pd.DataFrame | Images
    schema: Schema
    facts: dict[str, Any]
    protection: Protection | None
    sensitive: Sensitive


def split_and_protect(raw: RawTable | RawImages, spec: DatasetSpec) -> Split:
    """Check, split by subject and protect ``raw``.

    Raises:
        DataError: too few rows, empty or constant columns, undeclared text.
        ParameterError: a declared column does not exist.
    """
    if isinstance(raw, RawImages):
        return _split_images(raw, spec) if raw.table is None else _split_linked(raw, spec)
    return _split_table(raw, spec)[0]


def _split_table(
    raw: RawTable, spec: DatasetSpec, leave: tuple[str, ...] = ()
) -> tuple[Split, tuple[np.ndarray, np.ndarray]]:
    """The split, and the row numbers of train and holdout; ``leave`` tells subjects alone."""
    frame = _select(raw.frame, spec).drop(columns=list(leave))
    _check_frame(frame, spec)
    subjects = _subjects(raw.frame, spec.entity)
    rng = _content_rng(frame)
    in_holdout = _holdout_rows(subjects, spec.holdout, rng)
    kept = _bounded(subjects, spec, rng)
    numbers = np.flatnonzero(kept & ~in_holdout), np.flatnonzero(kept & in_holdout)
    train, holdout = (frame.iloc[rows].reset_index(drop=True) for rows in numbers)
    protection = fit_protection(train, spec, subjects[kept & ~in_holdout])
    train, holdout = protection.apply(train), protection.apply(holdout)
    replaced = [name for name, kind in protection.kinds.items() if kind in ("id", "text")]
    sensitive = sensitive_values(raw.frame, pd.concat([train, holdout]), replaced)
    schema = TableSchema.infer(
        train, kinds=protection.kinds, target=spec.target, protected=spec.protected
    )
    schema = _described(schema, spec, raw.types)
    facts = {
        "modality": "table",
        "rows": {"train": len(train), "holdout": len(holdout)},
        "columns": len(schema.columns),
        "entity": list(spec.entity),
        "protection": [*_sample_note(raw), *_bound_note(kept, spec), *protection.notes],
    }
    return Split(train, holdout, schema, facts, protection, sensitive), numbers


def store(split: Split, spec: DatasetSpec, home: Home, *, remember: bool = True) -> RealData:
    """Put ``split`` into the vault, addressed by its digest; the newest one is remembered."""
    digest = _digest(split)
    folder = home.dataset_vault(spec.name) / "real" / digest[:16]
    if not folder.is_dir():
        with whole_folder(folder) as stage:
            write_data(stage, "train", split.train)
            write_data(stage, "holdout", split.holdout)
            (stage / "schema.json").write_text(split.schema.to_json(), encoding="utf-8")
            (stage / "facts.json").write_text(canonical_json(split.facts), encoding="utf-8")
            split.sensitive.write(stage / SENSITIVE)
            if split.protection is not None:
                text = canonical_json(split.protection.to_json())
                (stage / PROTECTION).write_text(text, encoding="utf-8")
    real = RealData(folder, digest)
    if remember:
        remember_real(home, spec, real)
    return real


def protected_like(raw: RawTable, spec: DatasetSpec, real: RealData) -> pd.DataFrame:
    """The rows of ``raw``, one subject's bounded, protected exactly as those of ``real`` were.

    Raises:
        ParameterError: a declared column is gone.
        DataError: a column is gone, or does not fit its dtype.
    """
    protection, schema = real.protection, real.schema
    if protection is None or not isinstance(schema, TableSchema):
        raise DataError("only a table can be protected as another was, this dataset holds images")
    frame = _select(raw.frame, spec)
    missing = [name for name in protection.kinds if name not in frame.columns]
    if missing:
        raise DataError(
            f"the data must have the columns that were learned, {', '.join(missing)} are gone; "
            "restore them, or declare the dataset anew"
        )
    kept = _bounded(_subjects(raw.frame, spec.entity), spec, _content_rng(frame))
    return as_schema(protection.apply(frame[kept].reset_index(drop=True)), schema)


def _select(frame: pd.DataFrame, spec: DatasetSpec) -> pd.DataFrame:
    names = [str(name) for name in frame.columns]
    roles: dict[str, Sequence[str]] = {
        "--target": [spec.target] if spec.target else [],
        "--protected": spec.protected,
        "entity": spec.entity,
        "columns": list(spec.columns),
        "--drop": spec.drop,
    }
    for role, wanted in roles.items():
        unknown = [name for name in wanted if name not in names]
        if unknown:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ParameterError(
                f"{role} must name columns of the data, {', '.join(unknown)} is not one; "
                f"the columns are {shown}"
            )
    kept = [name for name in names if name not in spec.drop]
    lost = [n for n in (spec.target, *spec.protected) if n and n not in kept]
    if lost:
        raise ParameterError(f"a dropped column cannot have a role: {', '.join(lost)}")
    if not kept:
        raise ParameterError("at least one column must remain, all are dropped; drop fewer")
    return frame[kept]


def _check_frame(frame: pd.DataFrame, spec: DatasetSpec) -> None:
    if len(frame) < MIN_ROWS:
        raise DataError(
            f"a table needs at least {MIN_ROWS} rows to be learned and judged, this one has "
            f"{len(frame)}; give more data"
        )
    undeclared = [name for name in frame.columns if name not in spec.columns]
    empty = [name for name in undeclared if frame[name].isna().all()]
    infinite = [name for name in undeclared if _has_infinite(frame[name])]
    constant = [
        name for name in undeclared if name not in empty and frame[name].nunique(dropna=False) == 1
    ]
    problems = [
        f"{what}: {', '.join(repr(name) for name in names[:10])}"
        for what, names in (
            ("only missing values in", empty),
            ("one constant value in", constant),
            ("infinite values in", infinite),
        )
        if names
    ]
    if problems:
        raise DataError(
            "every column must have something to learn; "
            + "; ".join(problems)
            + "; leave them out with --drop NAME, or declare them with --kind NAME=categorical"
        )


def _has_infinite(series: pd.Series) -> bool:
    return bool(
        pd.api.types.is_float_dtype(series.dtype)
        and np.isinf(series.to_numpy(dtype=np.float64, na_value=np.nan)).any()
    )


def _subjects(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """A number per row, equal for rows of the same subject."""
    if not columns:
        return np.arange(len(frame))
    numbers = frame.groupby(list(columns), dropna=False, sort=False).ngroup()
    subjects: np.ndarray = numbers.to_numpy()
    return subjects


def _content_rng(frame: pd.DataFrame) -> np.random.Generator:
    """A generator that depends on the data alone.

    A holdout stays a holdout whatever the seed of a later run: else two releases of one dataset
    would each have learned the other's holdout.
    """
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return np.random.default_rng(derive_seed("split", hashlib.sha256(hashes.tobytes()).hexdigest()))


def _holdout_rows(subjects: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which rows are held out: all rows of a share of the subjects."""
    count = int(subjects.max()) + 1
    chosen = rng.permutation(count)[: max(1, round(share * count))]
    held: np.ndarray = np.isin(subjects, chosen)
    if held.all():
        raise DataError(
            f"train and holdout both need subjects, the entity columns give {count}; "
            "declare an entity with more"
        )
    return held


def _bounded(subjects: np.ndarray, spec: DatasetSpec, rng: np.random.Generator) -> np.ndarray:
    """Which rows are kept when a subject contributes a bounded number of them.

    A subject with many rows stands out however large a leaf or a batch is: bounding contributions
    is how a record's protection becomes a subject's (Amin et al., Bounding User Contributions, ICML
    2019).
    """
    order = rng.permutation(len(subjects))
    rank = pd.Series(subjects[order]).groupby(subjects[order]).cumcount().to_numpy()
    kept = np.empty(len(subjects), dtype=bool)
    kept[order] = rank < spec.protection.rows_per_subject
    return kept


def _sample_note(raw: RawTable) -> list[str]:
    if raw.seen <= len(raw.frame):
        return []
    return [
        f"a uniform sample of {len(raw.frame):,} of {raw.seen:,} rows is what was learned from and "
        "judged against (reservoir sampling; --max-rows)"
    ]


def _bound_note(kept: np.ndarray, spec: DatasetSpec) -> list[str]:
    if kept.all():
        return []
    bound = spec.protection.rows_per_subject
    return [
        f"{int((~kept).sum()):,} of {len(kept):,} rows left out: "
        f"a subject contributes at most {bound} row{'s' if bound > 1 else ''}"
    ]


def _described(schema: TableSchema, spec: DatasetSpec, types: Mapping[str, str]) -> TableSchema:
    """With the owner's descriptions, and the types of the source where values are still of them."""
    columns = []
    for column in schema.columns:
        declared = spec.columns.get(column.name)
        text = declared.description if declared else ""
        stored = types.get(column.name, "") if column.modelled else ""
        columns.append(replace(column, description=text, stored=stored))
    return replace(schema, columns=tuple(columns))


def _split_images(raw: RawImages, spec: DatasetSpec) -> Split:
    target = spec.target if spec.target != spec.source.label else None
    given = {"--target": target, "--protected": spec.protected, "--drop": spec.drop}
    for option, value in given.items():
        if value:
            raise ParameterError(f"{option} is for tables, this source holds images; leave it out")
    images, schema, notes = _without_rare_classes(raw.images, raw.schema, spec.protection.k)
    if len(images) < MIN_ROWS:
        raise DataError(
            f"an image set needs at least {MIN_ROWS} images to be learned and judged, this one "
            f"has {len(images)}; give more data"
        )
    # Equal pictures are one subject: a copy in the holdout would look like a leak.
    flat = np.ascontiguousarray(images.pixels).reshape(len(images), -1)
    _, entities = np.unique(flat, axis=0, return_inverse=True)
    keys = pd.DataFrame({"picture": entities.ravel(), "label": images.labels})
    held = _holdout_rows(entities.ravel(), spec.holdout, _content_rng(keys))
    train, holdout = images.take(np.flatnonzero(~held)), images.take(np.flatnonzero(held))
    facts = {
        "modality": "image",
        "rows": {"train": len(train), "holdout": len(holdout)},
        "unreadable": raw.unreadable,
        "entity": [],
        "protection": [
            "metadata of the image files (EXIF, GPS, names) is left behind",
            *raw.notes,
            *notes,
        ],
    }
    return Split(train, holdout, schema, facts, None, Sensitive({}))


def _split_linked(raw: RawImages, spec: DatasetSpec) -> Split:
    """Images with a row each: the rows are protected as a table, their label names the class."""
    label = spec.source.label
    if raw.table is None or label is None:
        raise ParameterError("a table with an image column needs a label; name it by --target")
    declared = spec.columns.get(label, ColumnSpec()).model_copy(update={"kind": "categorical"})
    spec = spec.model_copy(update={"columns": {**spec.columns, label: declared}})
    flat = np.ascontiguousarray(raw.images.pixels).reshape(len(raw.images), -1)
    _, pictures = np.unique(flat, axis=0, return_inverse=True)
    # A subject's images, and equal ones, are never parted.
    name = "__picture__"
    table = raw.table.raw()
    beside = RawTable(table.frame.assign(**{name: pictures.ravel()}), table.seen, table.types)
    entity = spec.entity or (name,)
    bound = (
        spec.protection
        if spec.entity
        else spec.protection.model_copy(update={"rows_per_subject": len(table.frame)})
    )
    split, kept = _split_table(
        beside, spec.model_copy(update={"entity": entity, "protection": bound}), leave=(name,)
    )
    schema = split.schema
    if not isinstance(schema, TableSchema) or label not in schema.names:
        raise DataError(f"the label column {label!r} must be kept, protection drops it; keep it")
    classes = tuple(str(level) for level in schema[label].levels)
    numbers = {name: number for number, name in enumerate(classes)}
    parts = []
    for frame, rows in zip((split.train, split.holdout), kept, strict=True):
        if not isinstance(frame, pd.DataFrame):
            raise TypeError("the rows of a table must be a frame")
        labels = [numbers.get(str(value), -1) for value in frame[label]]
        images = Images(raw.images.pixels[rows], np.array(labels, np.int64), frame)
        parts.append(images.take(np.flatnonzero(images.labels >= 0)))
    facts = {
        **split.facts,
        "modality": "image",
        "rows": {"train": len(parts[0]), "holdout": len(parts[1])},
        "unreadable": raw.unreadable,
        "entity": list(spec.entity),
        "protection": [
            "metadata of the image files (EXIF, GPS, names) is left behind",
            *raw.notes,
            *split.facts["protection"],
        ],
    }
    linked = replace(raw.schema, classes=classes, table=schema, label=label)
    train, holdout = parts
    return Split(train, holdout, linked, facts, split.protection, split.sensitive)


def _without_rare_classes(
    images: Images, schema: ImageSchema, k: int
) -> tuple[Images, ImageSchema, list[str]]:
    """Classes of fewer than ``k`` images become one: a name that few bear tells of them.

    Where they are fewer than ``k`` together, they are left out: a model would learn that class by
    heart.
    """
    counts = np.bincount(images.labels, minlength=len(schema.classes))
    kept = [i for i, name in enumerate(schema.classes) if counts[i] >= k or not schema.labelled]
    rare = len(schema.classes) - len(kept)
    if rare == 0:
        return images, schema, []
    few = len(images) - int(counts[kept].sum())
    new = np.full(len(schema.classes), len(kept), dtype=np.int64)
    new[kept] = np.arange(len(kept))
    if few < k:
        rows = np.flatnonzero(np.isin(images.labels, kept))
        left = Images(images.pixels[rows], new[images.labels[rows]])
        names = tuple(schema.classes[i] for i in kept) or ("all",)
        note = f"{few} images of {rare} classes left out, fewer than {k} together"
        return left, replace(schema, classes=names), [note]
    classes = (*(schema.classes[i] for i in kept), OTHER)
    note = f"{rare} classes of fewer than {k} images merged into {OTHER}"
    merged = Images(images.pixels, new[images.labels])
    return merged, replace(schema, classes=classes), [note]


def _digest(split: Split) -> str:
    digest = hashlib.sha256()
    digest.update(f"format {_FORMAT}\n".encode())
    digest.update(split.schema.to_json().encode())
    digest.update(canonical_json(split.facts).encode())
    for part in (split.train, split.holdout):
        frame = part.rows if isinstance(part, Images) else part
        if isinstance(part, Images):
            digest.update(np.ascontiguousarray(part.pixels).tobytes())
            digest.update(part.labels.tobytes())
        if frame is not None:
            hashes = pd.util.hash_pandas_object(frame, index=False)
            digest.update(hashes.to_numpy().tobytes())
    return digest.hexdigest()
