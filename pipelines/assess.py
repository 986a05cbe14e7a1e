"""Judge any synthetic file against real train and holdout files, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from generators.base import DataError, OnProgress, ParameterError
from generators.schema import Data, Images, ImageSchema, Schema, TableSchema
from validators import Comparison, Scorecard
from validators.base import skipped
from validators.contract import load_contract
from validators.privacy.canaries import METRIC
from validators.verdict import Verdict

from .boundary import guarded
from .candidate import write_candidate
from .declare import split_names, split_pair
from .home import Home, whole_folder, write_text
from .ingest import MIN_ROWS
from .pictures import contact_sheet
from .protection import check_declared
from .release import as_schema
from .sources import RawImages, RawTable, read_source, source_for_path
from .sources.tables import NULL_MARKERS
from .steps import measure, versions

if TYPE_CHECKING:
    from validators.image_encoder import Encoder

_NO_GENERATOR = (
    "not tested: planted records need the generator, and these are its data alone; `likeness "
    "audit` plants them for a generator of Likeness"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to judge, against what, and where the report goes.

    Attributes:
        synthetic, train, holdout: tables, folders of images, or Parquet files of images.
        target: column that models would predict.
        protected: columns of protected groups, separated by commas.
        kinds: declarations NAME=kind.
        contract: name or path.
        seed: of what measuring draws at random.
        output: folder for the report; must be new.
        encoder: a pretrained network for images, and the SHA-256 of its file.
    """

    synthetic: Path
    train: Path
    holdout: Path
    target: str | None = None
    protected: str | None = None
    entity: str | None = None
    kinds: Sequence[str] = ()
    contract: str = "standard"
    seed: int = 0
    output: Path = Path("likeness_report")
    encoder: Path | None = None
    encoder_sha256: str | None = None


@dataclass(frozen=True)
class Assessment:
    """The verdict and its report."""

    verdict: Verdict
    report: Path


@guarded
def validate(request: Request, progress: OnProgress | None = None) -> Assessment:
    """Measure, judge and report.

    Raises:
        DataError: a file cannot be read, or the three do not fit together.
        ParameterError: the output folder exists, or an option is wrong.
    """
    from validators.expectations import judge
    from validators.report import ReportContext, render_report

    if request.output.exists():
        raise ParameterError(
            f"the output folder must be new, {request.output} exists; choose another"
        )
    contract = load_contract(request.contract)
    data, given = _comparison(request)
    card = Scorecard((*measure(data, progress), skipped(METRIC, "privacy", _NO_GENERATOR)))
    with whole_folder(request.output.absolute()) as folder:
        digest = write_candidate(folder, data.synthetic, data.schema, "validated")
        verdict = judge(
            contract,
            card,
            # As it was given: an extra column or another dtype is for the verdict to name.
            synthetic=given,
            schema=data.schema,
            rows=len(data.synthetic),
            candidate_digest=digest,
            run_name=request.synthetic.stem,
            evidence=folder / "gx",
        )
        context = ReportContext(
            dataset=request.synthetic.stem,
            description="Judged as given; made elsewhere.",
            verdict=verdict,
            scorecard=card,
            comparison=data,
            loss_history=[],
            contact_sheet_png=_sheet(data.synthetic, data.schema),
            protection=(),
            reproduce={
                "command": f"likeness validate {request.synthetic.name} --train "
                f"{request.train.name} --holdout {request.holdout.name}",
                "contract": contract.name,
                "seed": request.seed,
                "sizes": {
                    "synthetic": len(data.synthetic),
                    "train": len(data.train),
                    "holdout": len(data.holdout),
                },
                "content_digest": digest,
                "versions": versions(),
            },
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_text(folder / "scorecard.json", card.to_json())
        write_text(folder / "verdict.json", verdict.to_json())
        write_text(folder / "report.html", render_report(context))
    return Assessment(verdict, request.output / "report.html")


def _comparison(request: Request) -> tuple[Comparison, Data]:
    """The three datasets in the schema of train, and the synthetic one as it was given."""
    raw = {
        name: read_source(source_for_path(path), Home.from_environment().vault)
        for name, path in (
            ("train", request.train),
            ("holdout", request.holdout),
            ("synthetic", request.synthetic),
        )
    }
    train = raw["train"]
    if isinstance(train, RawImages) and (
        request.target or request.protected or request.entity or request.kinds
    ):
        raise ParameterError(
            "--target, --protected, --entity and --kind are for tables; leave them out"
        )
    raw = _with_markers(raw, request)
    train = raw["train"]
    if isinstance(train, RawTable):
        schema: Schema = _with_room(_schema(train, raw["holdout"], request))
    else:
        schema = train.schema
    parts = {name: _fitted_to(schema, train, part, name) for name, part in raw.items()}
    data = Comparison(
        parts["synthetic"],
        parts["train"],
        parts["holdout"],
        schema,
        request.seed,
        entity=tuple(split_names(request.entity)),
        encoder=_encoder(request, schema),
    )
    made = raw["synthetic"]
    return data, made.frame if isinstance(made, RawTable) else parts["synthetic"]


def _encoder(request: Request, schema: Schema) -> Encoder | None:
    if request.encoder is None and request.encoder_sha256 is None:
        return None
    if request.encoder is None or request.encoder_sha256 is None:
        raise ParameterError(
            "a pretrained network is a program: give both --encoder FILE and --encoder-sha256, "
            "the hash of the file that you trust"
        )
    if not isinstance(schema, ImageSchema):
        raise ParameterError("--encoder is for images, these are tables; leave it out")
    from validators.image_encoder import Encoder

    encoder = Encoder(request.encoder, request.encoder_sha256)
    encoder.check()
    return encoder


def _with_markers(
    raw: Mapping[str, RawTable | RawImages], request: Request
) -> dict[str, RawTable | RawImages]:
    """Where one of the files is text, words for missing in text are missing in the others too."""
    paths = (request.synthetic, request.train, request.holdout)
    if not any(source_for_path(path).kind == "csv" for path in paths):
        return dict(raw)
    found: dict[str, RawTable | RawImages] = {}
    for name, part in raw.items():
        if isinstance(part, RawTable):
            texts = part.frame.select_dtypes("object")
            told = texts.mask(texts.isin(NULL_MARKERS), None)
            part = replace(part, frame=part.frame.assign(**{str(n): told[n] for n in told}))
        found[name] = part
    return found


def _schema(train: RawTable, holdout: RawTable | RawImages, request: Request) -> TableSchema:
    """The schema of both real tables: nobody has declared what else may occur."""
    kinds = dict(split_pair(text, "--kind") for text in request.kinds)
    names = list(train.frame.columns)
    protected = split_names(request.protected)
    for option, wanted in (
        ("--target", [request.target] if request.target else []),
        ("--protected", protected),
        ("--entity", split_names(request.entity)),
        ("--kind", list(kinds)),
    ):
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise ParameterError(
                f"{option} must name columns of the data, {', '.join(unknown)} is not one"
            )
    check_declared(train.frame, kinds)
    whole = train.frame
    if isinstance(holdout, RawTable) and set(names) <= set(holdout.frame.columns):
        whole = pd.concat([whole, holdout.frame[names]], ignore_index=True)
    return TableSchema.infer(whole, kinds=kinds, target=request.target, protected=protected)


def _with_room(schema: TableSchema) -> TableSchema:
    """The schema with ranges that fresh rows keep, too: a sample's extremes are no bounds.

    Numbers may lie as far beyond the extremes of the real rows as these are apart.
    """
    columns = []
    for column in schema.columns:
        if column.low is not None and column.high is not None:
            room = column.high - column.low
            column = replace(column, low=column.low - room, high=column.high + room)
        columns.append(column)
    return replace(schema, columns=tuple(columns))


def _fitted_to(
    schema: Schema, train: RawTable | RawImages, part: RawTable | RawImages, name: str
) -> Data:
    size = len(part.frame) if isinstance(part, RawTable) else len(part.images)
    if size < MIN_ROWS:
        raise DataError(
            f"the {name} data needs at least {MIN_ROWS} rows to be judged, it has {size}"
        )
    if isinstance(schema, TableSchema) and isinstance(part, RawTable):
        return _with_columns(part, schema, name)
    if isinstance(schema, ImageSchema) and isinstance(part, RawImages):
        return _relabelled(part, schema, name)
    kinds = ("a table", "images") if isinstance(train, RawTable) else ("images", "a table")
    raise DataError(
        f"train, holdout and synthetic must be of one kind, train is {kinds[0]} and {name} is "
        f"{kinds[1]}; check the paths"
    )


def _with_columns(part: RawTable, schema: TableSchema, name: str) -> Data:
    extra = [column for column in part.frame.columns if column not in schema.names]
    if extra:
        raise DataError(
            f"the {name} data must have the columns of train, it has {extra} besides; drop them"
        )
    try:
        return as_schema(part.frame, schema)
    except DataError as error:
        raise DataError(f"the {name} data do not fit train: {error}") from None


def _relabelled(part: RawImages, schema: ImageSchema, name: str) -> Images:
    """Labels of ``part`` as indices into the classes of train."""
    if replace(part.schema, classes=schema.classes) != schema:
        raise DataError(
            f"the {name} images must be {schema.height} x {schema.width} with {schema.channels} "
            "channel(s) like train; resize or convert them"
        )
    index = {label: number for number, label in enumerate(schema.classes)}
    unknown = [label for label in part.schema.classes if label not in index]
    if unknown:
        raise DataError(
            f"the {name} images must have the classes of train, {len(unknown)} are unknown"
        )
    table = np.array([index[label] for label in part.schema.classes], dtype=np.int64)
    return Images(part.images.pixels, table[part.images.labels])


def _sheet(data: Data, schema: Schema) -> bytes | None:
    if isinstance(data, Images) and isinstance(schema, ImageSchema):
        return contact_sheet(data, schema)
    return None
