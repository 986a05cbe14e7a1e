"""The way of the data: ingest, fit, sample, score, decide, publish. Plain functions, no Dagster.

Each step reads the results of the earlier ones from the vault, does nothing when its own result
is there already, and leaves it whole or not at all: a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import resource
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from generators import GENERATORS, load_generator
from generators.base import (
    CheckpointError,
    DataError,
    Generator,
    Modality,
    OnProgress,
    ParameterError,
    Private,
    Progress,
    Resumable,
    derive_seed,
)
from generators.persistence import is_sealed, model_digest, seal
from generators.schema import Data, Images, ImageSchema, Schema, TableSchema
from generators.tabular.verbatim import SECRET_ARRAYS
from validators import VALIDATORS, Comparison, Scorecard, validators_of
from validators.comparison import ModelLosses
from validators.contract import Contract, load_contract
from validators.verdict import Verdict

from .boundary import InternalError as InternalError
from .boundary import guarded
from .candidate import candidate_files, origin_of, recomputed, write_csv, write_parts
from .cases import plant
from .home import Home, canonical_json, whole_folder, write_text
from .ingest import split_and_protect, store
from .matching import ON_ALL, Likeness, Matching, conditioned, require_asked, unmatched
from .order import EdgeCases, Order, split_rows
from .pictures import beside_real, contact_sheet, most_suspicious
from .protection.fake import fake_columns, fresh_surrogates
from .protection.leaks import LeakError, LeakScan, count_copies, scan
from .publication import log
from .publication import publish as publication
from .publication.digest import content_digest
from .publication.log import Published
from .publication.parquet import Origin, to_arrow, write_parquet
from .publication.publish import Placed, PublishRequest
from .publication.read import published_parts, read_published
from .publication.signature import Signer
from .publication.store import LocalStore, open_lake
from .release import RealData, Release, as_schema, recall_real, remember_release
from .sampling import conditional, sample_rows
from .sources import RawTable, read_source, source_for_path
from .spec import DatasetSpec, SampleSpec

SHEET = "contact_sheet.png"
OWNERS_SHEETS = ("real_beside_synthetic.png", "most_suspicious.png")
"""They show real images: in the vault beside the evidence, never in a release."""
JUDGED_ROWS = 3_000
"""An order of fewer rows is judged together with further ones of the same model and conditions."""
MEASURED_ROWS = 1_000_000
"""Rows that are measured; of a larger candidate the first ones, which are in no order. Copies and
leaks are searched for in all."""
DEFAULT_GENERATOR = {"table": "autoregressive", "image": "diffusion"}
LINKED_GENERATOR = "rows-then-images"
"""Learns tables with an image column."""


@dataclass(frozen=True)
class Fitted:
    """What is known of a fitted model besides its weights."""

    generator: str
    digest: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A sample that has not been judged yet."""

    folder: Path
    content_digest: str
    rows: int


@guarded
def ingest(spec: DatasetSpec, home: Home, *, remember: bool = True) -> RealData:
    """Read the source, split it by subject, protect it, and put it into the vault.

    Args:
        spec: the dataset.
        home: whose vault.
        remember: whether the following steps of the dataset are to work on it.

    Raises:
        ParameterError: the contract or a hyper-parameter does not exist; said before anything is
            read.
    """
    contract_of(spec)
    if spec.generator.parameters and spec.generator.name != "auto":
        GENERATORS[spec.generator.name].from_parameters(spec.generator.parameters)
    split = split_and_protect(read_source(spec.source, home.vault), spec)
    real = store(split, spec, home, remember=remember)
    _check_real(real)
    return real


def _check_real(real: RealData) -> None:
    """The ordinary suite over the real rows; its evidence stays beside them, booleans alone."""
    from validators.expectations import check_ingest

    check_ingest(real.train(), real.schema, evidence=real.folder / "gx")


def prepare(
    spec: DatasetSpec, home: Home, real: RealData | None = None, order: Order | None = None
) -> Release:
    """The release of ``spec`` over ``real``, by default over what was ingested last.

    Raises:
        ParameterError: the generator does not suit the data, or has no such parameter.
    """
    real = real or recall_real(home, spec)
    modality = str(real.facts["modality"])
    name = spec.generator.name
    if name == "auto":
        name = LINKED_GENERATOR if has_rows(real.schema) else DEFAULT_GENERATOR[modality]
    if has_rows(real.schema) and name != LINKED_GENERATOR:
        raise ParameterError(
            f"a table with an image column is learned by {LINKED_GENERATOR}, got {name}; use --set "
            f"images={name} or --set rows={name}"
        )
    family = GENERATORS[name]
    if family.modality != modality:
        fitting = [key for key in GENERATORS if GENERATORS[key].modality == modality]
        raise ParameterError(
            f"the generator must be for {modality}s, {name} is for {family.modality}s; "
            f"choose one of {', '.join(fitting)}"
        )
    release = Release(spec, real, name, contract_of(spec).digest, home, order)
    new_generator(release)
    return release


@guarded
def fit(release: Release, progress: OnProgress | None = None) -> Fitted:
    """Fit the generator on the train rows, or find the model that equal inputs gave before.

    A family that trains by steps keeps a checkpoint in the vault and goes on from it. A family
    that cannot be saved without a pickle is only recorded here; ``sample`` fits it.
    """
    folder = release.model_folder
    if not folder.is_dir():
        generator = new_generator(release)
        facts = _train(generator, release, progress)
        with whole_folder(folder) as stage:
            if generator.persistent:
                generator.save(stage)
                seal(stage, SECRET_ARRAYS, release.home.secret)
            (stage / "facts.json").write_text(canonical_json(facts), encoding="utf-8")
    release.checkpoint_file.unlink(missing_ok=True)
    return fitted(release)


def fitted(release: Release) -> Fitted:
    """The model of ``release``.

    Raises:
        CheckpointError: it has not been fitted.
    """
    folder = release.model_folder
    if not folder.is_dir():
        raise CheckpointError(
            f"dataset {release.spec.name!r} needs a fitted model, it has none for this seed and "
            "these parameters; run the step 'model' first"
        )
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    digest = model_digest(folder) if facts["persistent"] else release.model_key
    return Fitted(release.generator, digest, facts)


@guarded
def sample(release: Release, progress: OnProgress | None = None) -> Candidate:
    """Sample the candidate and write it as canonical Parquet."""
    folder = release.candidate_folder
    if not folder.is_dir():
        generator = _loaded(release, progress)
        parts, rows = _drawn_parts(generator, release, progress)
        origin = origin_of(generator, rows, release.seed, fitted(release).digest)
        splits = split_rows(rows, release.order.splits) if release.order else {"train": rows}
        with whole_folder(folder) as stage:
            digest = write_parts(stage, parts, release.published, release.name, splits, origin)
            if release.order and release.order.csv:
                write_csv(stage, safe=release.order.csv_safe)
            facts = {"content_digest": digest, "rows": rows}
            (stage / "facts.json").write_text(canonical_json(facts), encoding="utf-8")
    return candidate(release)


def _drawn_parts(
    generator: Generator, release: Release, progress: OnProgress | None
) -> tuple[Iterable[Data], int]:
    """``drawn`` in parts, and the number of its rows.

    Where a row depends on no other it comes block by block, in memory for one. Conditions and
    quotas are met by all rows together, invented values must differ between them, and the files of
    images are laid out by the size of all: there the data come as one.
    """
    protection = release.real.protection
    hidden = protection is not None and {"id", "text"} & set(protection.kinds.values())
    whole = release.order is not None or hidden or isinstance(release.published, ImageSchema)
    if whole:
        data = drawn(generator, release, progress)
        return [data], len(data)
    return _blocks(generator, release, progress), release.rows


def _blocks(generator: Generator, release: Release, progress: OnProgress | None) -> Iterator[Data]:
    for block in generator.blocks(release.rows, release.seed):
        yield generator.sample_block(block)
        if progress is not None:
            progress(Progress("sample", block.start + block.size, release.rows, 0.0))


def drawn(generator: Generator, release: Release, progress: OnProgress | None = None) -> Data:
    """The rows or images of ``release`` as they are published, sampled from its model.

    Raises:
        ParameterError: a condition or a quota is wrong, or the family takes none.
        NoSupport: no row of the model fulfils a condition.
    """
    order = release.order
    if order is None:
        sampled = generator.sample(release.rows, seed=release.seed, progress=progress)
        return invented(sampled, release)
    if order.kin is not None:
        return _children(generator, release, progress)
    data = invented(sample_rows(generator, order.sample, progress), release)
    if not isinstance(data, pd.DataFrame):
        return data
    # With all columns, also those with a condition that are not published.
    require_asked(data, _table(release.real.schema), order)
    schema = _table(release.learned)
    data = data[list(schema.names)]
    return (plant(data, schema, order) if order.cases.any else data).rename(columns=order.rename)


def _children(generator: Generator, release: Release, progress: OnProgress | None) -> pd.DataFrame:
    """Rows of given parents, drawn given what the model has learned of such parents."""
    order, given = release.order, release.given
    if order is None or order.kin is None:
        raise ParameterError("children need an order with parents, this one has none")
    attributes = given.drop(columns=order.kin.key)
    filled = conditional(generator).fill(attributes, seed=order.sample.seed, progress=progress)
    own = _frame(invented(filled, release))[list(order.columns)].rename(columns=order.rename)
    own.insert(0, order.kin.key, given[order.kin.key].to_numpy())
    return own


@guarded
def previewed(release: Release, rows: int) -> pd.DataFrame | None:
    """Some rows of an order as they would be published, searched for real values.

    None where they repeat real rows more than chance explains: these few rows are shown before
    any gate has judged them, and narrow conditions can leave a model little but one real row.

    Raises:
        ParameterError: the release makes images.
        LeakError: a row holds a value that protection removed.
    """
    order = release.order
    if order is None:
        raise ParameterError("a preview is of an order, this release has none")
    few = order.sample.model_copy(update={"rows": rows})
    asked = order.model_copy(update={"sample": few, "cases": EdgeCases(), "splits": {}})
    frame = _frame(drawn(_loaded(release, None), replace(release, order=asked)))
    with tempfile.TemporaryDirectory(dir=release.home.vault) as folder:
        path = Path(folder) / "preview.parquet"
        frame.to_parquet(path, index=False)
        scan({"preview.parquet": path}, {}, release.real.sensitive, _declared(release))
    return None if _copies(release, order.ordinary(frame)) else frame


def _copies(release: Release, rows: pd.DataFrame) -> bool:
    """Whether more rows equal real ones than chance explains."""
    own = _table(release.learned)
    train, holdout = _frame(release.real.train()), _frame(release.real.holdout())
    try:
        count_copies([as_schema(rows, own)], train, holdout, own)
    except LeakError:
        return True
    return False


def candidate(release: Release) -> Candidate:
    """The candidate of ``release``.

    Raises:
        CheckpointError: it has not been sampled.
    """
    folder = release.candidate_folder
    if not folder.is_dir():
        raise CheckpointError(
            f"dataset {release.spec.name!r} needs a candidate, it has none for this release; "
            "run the step 'candidate' first"
        )
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    return Candidate(folder, facts["content_digest"], int(facts["rows"]))


@guarded
def score(release: Release, progress: OnProgress | None = None) -> Scorecard:
    """Measure the candidate, as written, against train and holdout.

    The rows beside images are measured as the table that they are, into a scorecard of their own.
    """
    path = release.evidence_folder / "scorecard.json"
    if not path.is_file():
        if has_rows(release.real.schema):
            beside = comparison(release).beside
            if beside is not None:
                write_text(_beside(release) / path.name, measure(beside, progress).to_json())
        write_text(path, _scored(release, progress).to_json())
    from .audit import audit_score

    card, told = Scorecard.from_json(path.read_text("utf-8")), audit_score(release)
    if told in card:
        return card
    # The model was audited since: all else stands, and is judged and reported once more.
    card = Scorecard((*(score for score in card if score.metric != told.metric), told))
    (path.parent / "report.html").unlink(missing_ok=True)
    write_text(path, card.to_json())
    return card


def has_rows(schema: Schema) -> bool:
    """Whether the dataset is a table with an image column."""
    return isinstance(schema, ImageSchema) and schema.table is not None


def _beside(release: Release) -> Path:
    """Where the evidence about the rows beside images lies."""
    return release.evidence_folder / "rows"


def _scored(release: Release, progress: OnProgress | None) -> Scorecard:
    """All scores; of an order with conditions, likeness is measured on matching real rows."""
    data = replace(_with_more_rows(release), losses=_losses(release))
    like = likeness(release, data)
    if like is None:
        return measure(data, progress)
    private = measure(data, progress, only=ON_ALL)
    other = [name for name in VALIDATORS if name not in ON_ALL]
    return Scorecard((*measure(like.data, progress, only=other).scores, *private.scores))


def _losses(release: Release) -> ModelLosses | None:
    if not isinstance(release.real.schema, ImageSchema) or not fitted(release).facts["persistent"]:
        return None
    from .losses import model_losses

    return model_losses(release)


def comparison(release: Release) -> Comparison:
    """The candidate, edge cases aside, beside all of the real data."""
    real = release.real
    files = candidate_files(candidate(release).folder)
    most = MEASURED_ROWS if release.order is None else None
    synthetic = read_published(files, release.published, most)
    train, holdout, order = real.train(), real.holdout(), release.order
    if order is not None and isinstance(synthetic, pd.DataFrame):
        schema = _table(release.learned)
        synthetic = order.ordinary(synthetic)
        if order.kin is not None:
            given = release.given
            # One child of each parent, as the train rows are; and beside it what the parent is.
            first = ~given[order.kin.key].duplicated().to_numpy()
            attributes = given.drop(columns=order.kin.key)
            synthetic = pd.concat([synthetic, attributes], axis=1)[first].reset_index(drop=True)
        synthetic = as_schema(synthetic, schema)
        train, holdout = _frame(train)[list(schema.names)], _frame(holdout)[list(schema.names)]
    spec = release.spec
    return Comparison(synthetic, train, holdout, release.learned, spec.seed, entity=spec.entity)


def written(release: Release) -> pd.DataFrame:
    """The candidate of a table as it will be published."""
    return _frame(read_published(candidate_files(candidate(release).folder), release.published))


def _more_rows(release: Release) -> int:
    """How many further rows an order is judged with: a handful of rows proves nothing."""
    order = release.order
    if order is None or order.kin is not None or isinstance(release.real.schema, ImageSchema):
        return 0
    return max(0, min(JUDGED_ROWS, int(release.real.facts["rows"]["train"])) - order.sample.rows)


def _with_more_rows(release: Release) -> Comparison:
    """``comparison``, with further rows of the same model, conditions and shares where it has few.

    All rows that are published are among those that are judged.
    """
    data, order, rows = comparison(release), release.order, _more_rows(release)
    if order is None or not rows:
        return data
    seed = derive_seed("more rows", release.seed)
    sample = order.sample.model_copy(update={"rows": rows, "seed": seed})
    alike = order.model_copy(update={"sample": sample, "cases": EdgeCases(), "rename": {}})
    more = _frame(drawn(_loaded(release, None), replace(release, order=alike)))
    return replace(data, synthetic=pd.concat([_frame(data.synthetic), more], ignore_index=True))


def likeness(release: Release, data: Comparison) -> Likeness | None:
    """What the likeness of an order's rows is measured on; None where that is all real rows."""
    order = release.order
    if order is None or not conditioned(order):
        return None
    whole = Matching(_frame(release.real.train()), _frame(release.real.holdout()))
    found = whole.matched(_table(release.real.schema), order, data)
    if found is not None:
        return found
    rows, seed = int(release.real.facts["rows"]["train"]), derive_seed("judged", release.seed)
    free = invented(_loaded(release, None).sample(rows, seed=seed), release)
    return unmatched(data, _frame(free)[list(_table(release.learned).names)])


def likeness_on(release: Release) -> str:
    """What an order's likeness is measured on, as ``Matching`` names it; empty of all real rows."""
    if release.order is None or not conditioned(release.order):
        return ""
    whole = Matching(_frame(release.real.train()), _frame(release.real.holdout()))
    return whole.measured_on(_table(release.real.schema), release.order)


def measure(
    data: Comparison, progress: OnProgress | None = None, *, only: Collection[str] | None = None
) -> Scorecard:
    """All validators that suit the data, or those of them in ``only``."""
    if isinstance(data.schema, ImageSchema):
        card = _measure(data, "image", progress, only)
        if data.beside is None:
            return card
        from validators.linked import association

        return Scorecard((*card.scores, *association(data)))
    from threadpoolctl import threadpool_limits

    # The boosted trees of scikit-learn are small here: OpenMP gains little, and on a machine that
    # is shared its spinning threads make a second into a minute.
    with threadpool_limits(limits=1, user_api="openmp"):
        return _measure(data, "table", progress, only)


def _measure(
    data: Comparison, modality: Modality, progress: OnProgress | None, only: Collection[str] | None
) -> Scorecard:
    chosen = validators_of(modality)
    chosen = [name for name in chosen if only is None or name in only]
    scores = []
    started = time.monotonic()
    for number, name in enumerate(chosen):
        if progress is not None:
            done = time.monotonic() - started
            progress(Progress(f"score: {name}", number, len(chosen), done))
        scores.extend(VALIDATORS[name]()(data))
    if progress is not None:
        progress(Progress("score", len(chosen), len(chosen), time.monotonic() - started))
    return Scorecard(tuple(scores))


@guarded
def decide(release: Release) -> Verdict:
    """Judge the scorecard by the contract, and write the report.

    A candidate that fails a gate is quarantined: its report and verdict go to the vault's
    quarantine, and nothing of it can be published.
    """
    folder = release.evidence_folder
    if not (release.real.folder / "gx").is_dir():
        _check_real(release.real)  # it came into the vault by another way than ``ingest``
    if not (folder / "report.html").is_file():
        card, data = score(release), comparison(release)
        if data.beside is not None:
            path = _beside(release) / "scorecard.json"
            _judge(release, Scorecard.from_json(path.read_text("utf-8")), data.beside, path.parent)
        _judge(release, card, data, folder)
    verdict = Verdict.from_json((folder / "verdict.json").read_text("utf-8"))
    beside = rows_verdict(release)
    passed = verdict.passed and (beside is None or beside.passed)
    if not passed and not release.quarantine_folder.is_dir():
        with whole_folder(release.quarantine_folder) as stage:
            for name, path in _reports(release).items():
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_bytes(path.read_bytes())
    return verdict


def rows_verdict(release: Release) -> Verdict | None:
    """The verdict on the rows beside images; None where there are none.

    Raises:
        CheckpointError: the rows have not been judged.
    """
    if not has_rows(release.real.schema):
        return None
    try:
        return Verdict.from_json((_beside(release) / "verdict.json").read_text("utf-8"))
    except OSError:
        raise CheckpointError(
            f"dataset {release.spec.name!r} needs a verdict on its rows, it has none; run the step "
            "'scorecard' first"
        ) from None


def _judge(release: Release, card: Scorecard, data: Comparison, folder: Path) -> None:
    """Write verdict and report into ``folder``; both are bound to the whole candidate."""
    from validators.expectations import judge

    verdict = judge(
        contract_of(release.spec),
        card,
        synthetic=data.synthetic,
        schema=data.schema,
        rows=release.judged_rows if release.order else min(release.rows, MEASURED_ROWS),
        candidate_digest=candidate(release).content_digest,
        run_name=f"{release.name}@{release.key[:16]}",
        evidence=folder / "gx",
    )
    write_text(folder / "verdict.json", verdict.to_json())
    _write_report(release, verdict, card, data, folder)


def _reports(release: Release) -> dict[str, Path]:
    """What was judged, by its name among the reports."""
    names = ["report.html", "verdict.json", "scorecard.json"]
    if has_rows(release.real.schema):
        names += [f"rows/{name}" for name in names]
    return {name: release.evidence_folder / name for name in names}


@guarded
def publish(release: Release) -> Published:
    """Publish the candidate if, and only if, its verdict passes.

    Raises:
        QuarantinedError: a gate failed, or the verdict is not about this candidate.
    """
    return commit(release.home, place(release))


def place(release: Release) -> Placed:
    """Bring the candidate into the lake, where no reader sees it, if its verdict passes.

    All that can speak against a release does so here; what is left is ``commit``.

    Raises:
        QuarantinedError: a gate failed, or the verdict is not about this candidate.
        LeakError: the files hold a real value, or more copies than chance explains.
    """
    Signer.from_environment()  # a key that cannot be read stops it here, not after the commit
    folder = release.evidence_folder
    try:
        verdict = Verdict.from_json((folder / "verdict.json").read_text("utf-8"))
        card = Scorecard.from_json((folder / "scorecard.json").read_text("utf-8"))
    except OSError:
        raise CheckpointError(
            f"dataset {release.spec.name!r} needs a verdict to be published, it has none; "
            "run the step 'scorecard' first"
        ) from None
    ready = _recomputed(release)
    verdict.require_passed(ready.content_digest, contract_of(release.spec), card)
    beside = rows_verdict(release)
    if beside is not None:
        rows_card = Scorecard.from_json((_beside(release) / "scorecard.json").read_text("utf-8"))
        beside.require_passed(ready.content_digest, contract_of(release.spec), rows_card)
    _require_asked(release)
    request = _request(release, ready, verdict)
    leak_scan = require_clean(release, request)
    facts = {**request.facts, "reproduce": {**request.facts["reproduce"], "leak_scan": leak_scan}}

    def inspect(texts: Mapping[str, str]) -> None:
        scan({}, texts, release.real.sensitive, _declared(release), _asked(release))

    remember_release(release)
    return publication.place(open_lake(release.home.lake), replace(request, facts=facts), inspect)


def commit(home: Home, placed: Placed) -> Published:
    """Make a version of what was placed, signed where there is a key."""
    store, signer = open_lake(home.lake), Signer.from_environment()
    entry, existing = publication.commit(store, placed)
    if signer is not None:
        signer.sign(store, placed.dataset, entry.version, entry.to_bytes())
    return log.published(store, placed.dataset, entry, existing=existing)


def _require_asked(release: Release) -> None:
    """Raise unless the rows, as they lie there, are what the order asks."""
    order, schema = release.order, release.real.schema
    if order is None or order.kin is not None or not isinstance(schema, TableSchema):
        return
    rows = as_schema(order.ordinary(written(release)), _table(release.learned))
    require_asked(rows, schema, order)


def _declared(release: Release) -> str:
    """What the owner has declared for publication, as text."""
    return "\n".join([release.spec.model_dump_json(), release.real.schema.to_json()])


def _asked(release: Release) -> str:
    """What somebody else has written who asked for the release; quoted in cards and reports."""
    return release.order.model_dump_json() if release.order else ""


def require_clean(release: Release, request: PublishRequest) -> dict[str, Any]:
    """Search all that is to be published for real values; gives what was searched, in counts.

    Raises:
        LeakError: there is one, or more copied rows than chance explains.
    """
    data = comparison(release)
    rows: Iterable[Data] = [data.synthetic]
    if release.order is None:  # all of them, in parts
        rows = published_parts(candidate_files(candidate(release).folder), release.published)
    copies, expected = count_copies(rows, data.train, data.holdout, data.schema)
    texts = {"manifest": json.dumps(dict(request.facts), ensure_ascii=False)}
    sensitive = release.real.sensitive
    searched = scan(request.files, texts, sensitive, _declared(release), _asked(release))
    found = LeakScan(len(request.files) + len(texts), searched, copies, round(expected, 1))
    return asdict(found)


@dataclass(frozen=True)
class RunResult:
    """What a whole run led to; ``rows`` is the verdict on the rows beside images."""

    release: Release
    verdict: Verdict
    published: Published | None
    rows: Verdict | None = None

    @property
    def report(self) -> Path:
        """The report: of the published version, where that is a folder; else in the vault."""
        if self.published is not None:
            store = self.published.store
            local = isinstance(store, LocalStore)
            place = self.published.path / "reports" if local else self.release.evidence_folder
            return place / "report.html"
        return self.release.quarantine_folder / "report.html"

    @property
    def owners_sheets(self) -> tuple[Path, ...]:
        """Pictures of real beside synthetic images, for the owner of the data; none of a table."""
        paths = (self.release.evidence_folder / name for name in OWNERS_SHEETS)
        return tuple(path for path in paths if path.is_file())


def run(
    spec: DatasetSpec,
    home: Home,
    progress: OnProgress | None = None,
    *,
    real: RealData | None = None,
) -> RunResult:
    """The whole way of the data; ``real`` where it has been ingested already.

    Raises:
        LikenessError: bad input or an internal failure. A failed gate is no error: the result
            then has no publication.
    """
    notify = progress or (lambda _: None)
    notify(Progress("ingest", 0, 1, 0.0))
    release = prepare(spec, home, real or ingest(spec, home))
    notify(Progress("fit", 0, 1, 0.0))
    fit(release, progress)
    notify(Progress("sample", 0, 1, 0.0))
    sample(release, progress)
    score(release, progress)
    notify(Progress("decide", 0, 1, 0.0))
    verdict = decide(release)
    notify(Progress("publish", 0, 1, 0.0))
    beside = rows_verdict(release)
    passed = verdict.passed and (beside is None or beside.passed)
    published = publish(release) if passed else None
    return RunResult(release, verdict, published, beside)


def export_model(release: Release, folder: Path) -> Path:
    """A copy of the fitted model in ``folder``: it holds real values, keep it as safe as them.

    Raises:
        CheckpointError: this family cannot be saved.
        ParameterError: the folder exists.
    """
    if not fitted(release).facts["persistent"]:
        raise CheckpointError(
            f"a saved model must not need a pickle, {release.generator} would; use `likeness run`, "
            "which fits and samples at once"
        )
    if folder.exists():
        raise ParameterError(f"the output folder must be new, {folder} exists; choose another")
    with whole_folder(folder.absolute()) as stage:
        for file in sorted(release.model_folder.iterdir()):
            (stage / file.name).write_bytes(file.read_bytes())
    return folder


@guarded
def sample_to_file(
    model: Path,
    request: SampleSpec,
    output: Path,
    progress: OnProgress | None = None,
    *,
    home: Home | None = None,
) -> str:
    """Sample a saved model into one Parquet file; gives the content digest.

    Raises:
        CheckpointError: the folder holds no model.
        ParameterError: a condition is wrong, or the model takes none.
        NoSupport: no row of the model fulfils a condition.
    """
    generator = _opened(model, home)
    data = sample_rows(generator, request, progress)
    origin = origin_of(generator, len(data), request.seed, model_digest(model))
    return _to_file(data, generator, output, origin)


@guarded
def fill_to_file(
    model: Path,
    table: Path,
    seed: int,
    output: Path,
    progress: OnProgress | None = None,
    *,
    home: Home | None = None,
) -> tuple[str, int]:
    """Complete a table by a saved model into one Parquet file; gives its digest and its rows.

    Rows keep their order and given cells their values.

    Raises:
        CheckpointError: the folder holds no model.
        ParameterError: the model completes no tables.
        DataError: the table cannot be read, or is not of the model's columns and categories.
    """
    generator = conditional(_opened(model, home))
    source = source_for_path(table)
    # All rows or an error: a table to complete is not sampled from.
    limits = source.limits.model_copy(update={"max_rows": 2**31})
    given = read_source(source.model_copy(update={"limits": limits}), Home.from_environment().vault)
    if not isinstance(given, RawTable):
        raise DataError(f"a table is completed, {table} holds images; give a CSV or Parquet file")
    if given.seen > len(given.frame):
        raise DataError(
            f"a table to complete must fit into memory, {table} does not; complete it in parts"
        )
    data = generator.fill(given.frame, seed=seed, progress=progress)
    return _to_file(data, generator, output), len(data)


def _opened(model: Path, home: Home | None) -> Generator:
    """A model in any folder; one that was fitted in a vault needs the secret that lies there."""
    home = home or Home.from_environment()
    return load_generator(model, home.secret if is_sealed(model) else None)


def _to_file(data: Data, generator: Generator, output: Path, origin: Origin | None = None) -> str:
    table = to_arrow(data, generator.schema_, origin)
    digest = content_digest(table)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    write_parquet(table, partial, {"synthetic": "true", "content_digest": digest})
    partial.replace(output)
    return digest


def new_generator(release: Release) -> Generator:
    """The generator of a release, not fitted yet.

    Raises:
        ParameterError: it has no such hyper-parameter.
    """
    parameters = {"seed": release.spec.seed, **release.spec.generator.parameters}
    generator = GENERATORS[release.generator].from_parameters(parameters)
    if isinstance(generator, Private):
        generator.noise_key = release.home.secret
    return generator


def contract_of(spec: DatasetSpec) -> Contract:
    """The contract that judges a dataset: the preset, with what its owner tightens or waives.

    Raises:
        ParameterError: there is no such contract or gate, or a gate would be loosened.
    """
    return load_contract(spec.contract).adjusted(spec.gates)


def _table(schema: Schema) -> TableSchema:
    if not isinstance(schema, TableSchema):
        raise ParameterError("conditions, columns and edge cases are for tables; leave them out")
    return schema


def _frame(data: Data) -> pd.DataFrame:
    if not isinstance(data, pd.DataFrame):
        raise ParameterError("conditions, columns and edge cases are for tables; leave them out")
    return data


def _train(generator: Generator, release: Release, progress: OnProgress | None) -> dict[str, Any]:
    started = time.monotonic()
    facts: dict[str, Any] = {"persistent": generator.persistent, "loss_history": []}
    facts["training_notes"] = []
    if generator.persistent:
        train, schema = release.real.train(), release.real.schema
        if isinstance(generator, Resumable):
            # Imported here: it brings torch, which other families do not need.
            from generators.checkpoint import Checkpoint

            kept = Checkpoint(release.checkpoint_file, release.model_key)
            generator.fit_or_resume(train, schema, checkpoint=kept, progress=progress)
        else:
            generator.fit(train, schema, progress=progress)
        facts["loss_history"] = generator.loss_history_
        facts["training_notes"] = generator.training_notes_
    facts["privacy"] = generator.privacy.sentence if isinstance(generator, Private) else None
    facts["parameters"] = generator.parameters()
    facts["seconds"] = round(time.monotonic() - started, 3)
    facts["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return facts


def _loaded(release: Release, progress: OnProgress | None) -> Generator:
    if fitted(release).facts["persistent"]:
        return load_generator(release.model_folder, release.home.secret)
    generator = new_generator(release)
    return generator.fit(release.real.train(), release.real.schema, progress=progress)


def invented(data: Data, release: Release) -> Data:
    """``data`` with invented values where the real ones were personal, and no real id."""
    protection = release.real.protection
    if protection is None:
        return data
    if isinstance(data, Images):
        rows = None if data.rows is None else _frame(invented(data.rows, release))
        return replace(data, rows=rows)
    hidden = [name for name, kind in protection.kinds.items() if kind in ("id", "text")]
    if not hidden:
        return data
    both = (release.real.train(), release.real.holdout())
    frames = [part.rows if isinstance(part, Images) else part for part in both]
    parts = [part for part in frames if part is not None]
    there = {name: pd.concat([part[name] for part in parts]) for name in hidden}
    for name in (name for name in hidden if name not in protection.fakes):
        data = data.assign(**{name: fresh_surrogates(data[name], there[name])})
    real: dict[str, set[str]] = {name: set(there[name].dropna()) for name in protection.fakes}
    for name in real:
        real[name] |= set(release.real.sensitive.values.get(name, ()))
    return fake_columns(
        data,
        protection.fakes,
        real,
        unique=[name for name in protection.fakes if protection.kinds[name] == "id"],
        locale=release.spec.protection.locale,
        seed=release.seed,
    )


def _recomputed(release: Release) -> Candidate:
    """The candidate with the digest of the bytes that lie there now."""
    found = candidate(release)
    return Candidate(found.folder, *recomputed(found.folder))


def reproduce_facts(release: Release) -> dict[str, Any]:
    """What a reader needs to make the same release again; holds no value of the data."""
    model, rows = fitted(release), candidate(release).rows
    asked: dict[str, Any] = {"order": release.order.decides()} if release.order else {}
    if on := likeness_on(release):
        asked["likeness_on"] = on
    if release.order is None and rows > MEASURED_ROWS:
        asked = {"judged_rows": MEASURED_ROWS}
    return {
        "dataset": release.spec.name,
        "release_key": release.key,
        "generator": release.generator,
        "parameters": model.facts["parameters"],
        "seed": release.seed,
        "train_seed": release.spec.seed,
        "model_digest": model.digest,
        "fit_seconds": model.facts["seconds"],
        "rows": rows,
        "content_digest": candidate(release).content_digest,
        "contract": release.spec.contract,
        "contract_digest": release.contract_digest,
        "versions": versions(),
        **asked,
    }


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("likeness", "torch", "numpy", "pandas", "pyarrow", "scikit-learn")
    found = {name: version(name) for name in names}
    return {"python": platform.python_version(), **found}


def _write_report(
    release: Release, verdict: Verdict, card: Scorecard, data: Comparison, folder: Path
) -> None:
    from validators.report import ReportContext, render_report

    from .audit import audited

    sheet = None
    if isinstance(data.synthetic, Images) and isinstance(data.schema, ImageSchema):
        sheet = contact_sheet(data.synthetic, data.schema)
        (release.evidence_folder / SHEET).write_bytes(sheet)
        _write_owners_sheets(release.evidence_folder, data)
    facts = fitted(release).facts
    context = ReportContext(
        dataset=release.name,
        description=_description(release),
        verdict=verdict,
        scorecard=card,
        comparison=data,
        loss_history=[(int(s), float(v)) for s, v in facts["loss_history"]],
        training_notes=tuple(facts["training_notes"]),
        contact_sheet_png=sheet,
        protection=_notes(release),
        reproduce=reproduce_facts(release),
        audit=told.found if (told := audited(release)) is not None else None,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_text(folder / "report.html", render_report(context))


def _write_owners_sheets(folder: Path, data: Comparison) -> None:
    train, holdout, synthetic, schema = data.image_features.parts
    sheets = (
        beside_real(train, synthetic, schema),
        most_suspicious(train, holdout, synthetic),
    )
    for name, sheet in zip(OWNERS_SHEETS, sheets, strict=True):
        (folder / name).write_bytes(sheet)


def _request(release: Release, ready: Candidate, verdict: Verdict) -> PublishRequest:
    folder = release.evidence_folder
    files = {f"data/{file.name}": file for file in candidate_files(ready.folder)}
    files |= {f"export/{file.name}": file for file in sorted((ready.folder / "export").glob("*"))}
    write_text(folder / "contract.json", contract_of(release.spec).model_dump_json(indent=1))
    files["reports/contract.json"] = folder / "contract.json"
    files |= {f"reports/{name}": path for name, path in _reports(release).items()}
    files |= gx_evidence(folder / "gx", release.real.folder / "gx")
    if (folder / SHEET).is_file():
        files[SHEET] = folder / SHEET
    return PublishRequest(
        dataset=release.name,
        key=release.key,
        files=files,
        schema=release.published,
        rows=ready.rows,
        content_digest=ready.content_digest,
        facts=_facts(release, verdict),
        created_at=verdict.generated,
    )


def gx_evidence(judged: Path, ingested: Path) -> dict[str, Path]:
    """What Great Expectations left of a candidate and of the real data, by its published name.

    Suites, results and Data Docs; of the real data booleans alone.

    Raises:
        CheckpointError: a part is missing; evidence is complete or nothing is published.
    """
    found = {
        file.relative_to(folder).as_posix(): file
        for folder in (judged, ingested)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    suites = ("release_gate", "structure", "ingest")
    required = [
        "data_docs/index.html",
        *(f"{n}{end}.json" for n in suites for end in ("", "_suite")),
    ]
    if missing := [name for name in required if name not in found]:
        raise CheckpointError(
            f"a release must carry the evidence of its checks, {', '.join(missing)} is missing; "
            "run it again from the step 'real'"
        )
    return {f"reports/gx/{name}": file for name, file in found.items()}


def _description(release: Release) -> str:
    asked = release.order.description if release.order else ""
    return asked or release.spec.description


def _notes(release: Release) -> tuple[str, ...]:
    """What was done to the real data, and what an order was judged against."""
    like, rows = likeness(release, comparison(release)), _more_rows(release)
    said = list(release.real.facts["protection"])
    if (private := fitted(release).facts.get("privacy")) is not None:
        said.append(private)
    if like is not None:
        said.append(like.note)
    if rows:
        said.append(
            f"{release.rows:,} rows alone prove little: they were judged together with {rows:,} "
            "further rows of the same model, conditions and shares, which are not published"
        )
    if release.order and release.order.note:
        said.append(release.order.note)
    return tuple(said)


def _facts(release: Release, verdict: Verdict) -> dict[str, Any]:
    spec, order = release.spec, release.order
    return {
        "title": release.name,
        "description": _description(release),
        "license": spec.license,
        "citation": spec.citation,
        "owners": [order.owner] if order and order.owner else list(spec.owners),
        "tags": {**spec.tags, **(order.labels if order else {})},
        "reproduce": reproduce_facts(release),
        "source": {"kind": spec.source.kind, "rows": release.real.facts["rows"]},
        "protection": list(_notes(release)),
        "gates": json.loads(verdict.to_json()),
    }
