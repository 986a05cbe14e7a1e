"""A request without real data: rows of a declared schema, judged by the schema, published.

There is nothing to leak and nothing to be like: the verdict says that the rows are valid, and the
card says that no real data stand behind them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from generators.base import DataError, OnProgress, Progress, derive_seed
from generators.dtypes import pandas_dtype
from generators.schema import Schema
from validators import Scorecard
from validators.base import Score, skipped
from validators.contract import NOT_APPLICABLE, Contract, load_contract
from validators.statistics import bonferroni, wilson
from validators.verdict import Verdict

from ..candidate import candidate_files, write_candidate, write_csv
from ..cases import check_cases, plant
from ..home import Home, canonical_json, whole_folder, write_text
from ..order import Order, split_rows
from ..publication import log
from ..publication.log import Published
from ..publication.publish import Placed, PublishRequest, place
from ..publication.read import read_published
from ..publication.signature import Signer
from ..publication.store import open_lake
from ..release import as_schema, code_digest
from ..spec import SampleSpec
from ..steps import versions
from . import announcement
from .announcement import Announce
from .declaration import ColumnDeclaration, KeyDeclaration, TableDeclaration
from .invention import Table, foreign_keys, with_gaps
from .model import DataRequest, Problem, RequestError, request_key
from .patterns import Pattern

CONTRACT = Path(__file__).parent / "contracts" / "schema-only.yaml"
_METRICS = (
    "constraint_violations",
    "key_violations",
    "pattern_violations",
    "declared_share_error",
)


@dataclass(frozen=True)
class Part:
    """One declared table of a request and what is made of it.

    Attributes:
        name: of the dataset in the lake.
        table: what is declared.
        rows: how many, edge cases aside.
        key: of the release.
        order: seed, splits, edge cases, files.
        foreign: its foreign key, where it has a parent.
        parent: the keys that it may hold.
    """

    home: Home
    request: DataRequest
    name: str
    table: Table
    rows: int
    key: str
    order: Order
    foreign: KeyDeclaration | None = None
    parent: pd.Series | None = None

    @property
    def folder(self) -> Path:
        """Candidate and evidence."""
        return self.home.dataset_vault(self.name) / "declared" / self.key[:16]

    @property
    def published(self) -> Schema:
        """The schema of what is published."""
        return self.order.published(self.table.schema)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows, edge cases aside."""
        given = {}
        if self.foreign is not None and self.parent is not None:
            name, seed = self.foreign.of_child[1], self.order.sample.seed
            keys = foreign_keys(self.parent, self.foreign, seed)
            keys = keys.astype(pandas_dtype(self.table.schema[name].dtype))
            rng = np.random.default_rng(derive_seed("orphans", seed, self.foreign.child))
            share = self.table.declaration.columns[name].null_share
            given[name] = with_gaps(keys, share, rng)
        return self.table.rows(self.rows, self.order.sample.seed, given)

    def write(self) -> str:
        """Write the candidate, where it is not there; gives its content digest."""
        folder = self.folder / "candidate"
        if not folder.is_dir():
            data = self.frame
            if self.order.cases.any:
                data = plant(data, self.table.schema, self.order)
            with whole_folder(folder) as stage:
                splits = split_rows(len(data), self.order.splits)
                digest = write_candidate(stage, data, self.published, self.name, splits)
                if self.order.csv:
                    write_csv(stage, safe=self.order.csv_safe)
                facts = {"content_digest": digest, "rows": len(data)}
                (stage / "facts.json").write_text(canonical_json(facts), encoding="utf-8")
        return str(self.facts["content_digest"])

    @property
    def facts(self) -> dict[str, Any]:
        """Digest and rows of the candidate."""
        text = (self.folder / "candidate" / "facts.json").read_text("utf-8")
        facts: dict[str, Any] = json.loads(text)
        return facts

    def judge(self) -> Verdict:
        """Judge the candidate, as written, by its declaration."""
        from validators.expectations import judge

        evidence, digest = self.folder / "evidence", self.write()
        if not (evidence / "verdict.json").is_file():
            rows = self.ordinary()
            card = Scorecard(tuple(self._scores(rows)))
            write_text(evidence / "scorecard.json", card.to_json())
            write_text(evidence / "contract.json", _contract().model_dump_json(indent=1))
            verdict = judge(
                _contract(),
                card,
                synthetic=rows,
                schema=self.table.schema,
                rows=self.rows,
                candidate_digest=digest,
                run_name=f"{self.name}@{self.key[:16]}",
                evidence=evidence / "gx",
            )
            write_text(evidence / "verdict.json", verdict.to_json())
        return Verdict.from_json((evidence / "verdict.json").read_text("utf-8"))

    def ordinary(self) -> pd.DataFrame:
        """The rows as they lie there, edge cases aside."""
        found = read_published(candidate_files(self.folder / "candidate"), self.published)
        if not isinstance(found, pd.DataFrame):
            raise DataError("a declared schema is of a table, images lie there; remove them")
        return as_schema(self.order.ordinary(found), self.table.schema)

    def place(self, verdict: Verdict) -> Placed:
        """Bring the candidate into the lake, where no reader sees it, if its verdict passes."""
        evidence, candidate = self.folder / "evidence", self.folder / "candidate"
        Signer.from_environment()  # a key that cannot be read stops it here, not after the commit
        card = Scorecard.from_json((evidence / "scorecard.json").read_text("utf-8"))
        verdict.require_passed(self.facts["content_digest"], _contract(), card)
        files = {f"data/{file.name}": file for file in candidate_files(candidate)}
        files |= {f"export/{file.name}": file for file in sorted((candidate / "export").glob("*"))}
        for name in ("verdict.json", "scorecard.json", "contract.json"):
            files[f"reports/{name}"] = evidence / name
        for file in sorted((evidence / "gx").rglob("*")):
            if file.is_file():
                files[f"reports/gx/{file.relative_to(evidence / 'gx').as_posix()}"] = file
        asked = PublishRequest(
            dataset=self.name,
            key=self.key,
            files=files,
            schema=self.published,
            rows=self.facts["rows"],
            content_digest=self.facts["content_digest"],
            facts=self._card(verdict),
            created_at=verdict.generated,
        )
        return place(open_lake(self.home.lake), asked)

    def existing(self) -> Published | None:
        """The version of this key that stands."""
        return log.find_standing(open_lake(self.home.lake), self.name, self.key)

    def _card(self, verdict: Verdict) -> dict[str, Any]:
        about = self.request.metadata
        return {
            "title": self.name,
            "description": about.purpose,
            "owners": [about.owner] if about.owner else [],
            "tags": {**about.labels, "source": "schema-only"},
            "reproduce": {
                "release_key": self.key,
                "generator": "schema-only",
                "seed": self.order.sample.seed,
                "rows": self.facts["rows"],
                "content_digest": self.facts["content_digest"],
                "request": self.request.spec.model_dump(mode="json", by_alias=True),
                "versions": {**versions(), "faker": version("faker")},
            },
            "source": {"kind": "schema"},
            "gates": json.loads(verdict.to_json()),
        }

    def _scores(self, rows: pd.DataFrame) -> list[Score]:
        declared = self.table.declaration
        found: list[Score] = [
            _violations("constraint_violations", f"constraint {number}", ~held)
            for number, held in enumerate(self.table.held(rows), start=1)
        ]
        for name, column in declared.columns.items():
            cells = rows[name]
            if column.unique or (column.kind == "id" and not self._is_foreign(name)):
                twice = cells.notna() & cells.duplicated(keep=False)
                found.append(_violations("key_violations", name, twice.to_numpy()))
            if column.pattern is not None and not self._is_foreign(name):
                broken = ~cells.dropna().map(Pattern(column.pattern).matches).to_numpy(dtype=bool)
                found.append(_violations("pattern_violations", name, broken))
            found += _share_scores(name, column, cells, len(declared.columns))
        if self.foreign is not None and self.parent is not None:
            name = self.foreign.of_child[1]
            orphans = rows[name].notna() & ~rows[name].isin(self.parent)
            found.append(_violations("key_violations", f"{name} → parent", orphans.to_numpy()))
        there = {score.metric for score in found}
        reason = f"{NOT_APPLICABLE} nothing of the kind is declared"
        return [*found, *(skipped(m, "fidelity", reason) for m in _METRICS if m not in there)]

    def _is_foreign(self, name: str) -> bool:
        return self.foreign is not None and self.foreign.of_child[1] == name


def check(request: DataRequest) -> None:
    """Raise where a declared schema cannot be made.

    Raises:
        RequestError: all problems at once.
    """
    problems = []
    for name, table in _tables(request).items():
        place = f"spec.source.tables.{name}" if request.spec.source.tables else "spec.source.schema"
        found = Table(table, request.spec.pii.locale or "en_US").check()
        problems += [Problem(f"{place}.{field}", message) for field, message in found]
    if not problems and request.spec.source.declared is not None:
        unfit = check_cases(Table(request.spec.source.declared).schema, request.spec.edge_cases)
        problems += [Problem(f"spec.edge_cases.{field}", message) for field, message in unfit]
    if problems:
        raise RequestError(tuple(problems))


def parts(home: Home, request: DataRequest) -> list[Part]:
    """The tables of a request, parents before children.

    Raises:
        DataError: the keys of a parent cannot be made.
    """
    whole = request_key(request, _code())
    renewal = 0
    while True:
        made = _parts(home, request, whole, renewal)
        if not any(_retired(part) for part in made):
            return made
        renewal += 1  # what was retired stays retired: the same rows become a new version


def standing(made: list[Part]) -> tuple[Published, ...]:
    """The versions that answer the request already; empty where one is missing."""
    found = [part.existing() for part in made]
    return tuple(version for version in found if version) if all(found) else ()


def answer(
    made: list[Part], report: OnProgress, announce: Announce
) -> tuple[tuple[Published, ...], Verdict | None]:
    """Make, judge and publish all parts, or none; the verdict is one that failed."""
    verdicts = []
    for number, part in enumerate(made):
        report(Progress(f"make {part.name}", number, len(made), 0.0))
        verdicts.append(part.judge())
    for verdict in verdicts:
        if not verdict.passed:
            return (), verdict
    releases = [partial(part.place, verdict) for part, verdict in zip(made, verdicts, strict=True)]
    return announcement.publish(made[0].home, releases, announce, report), None


def preview(made: list[Part], rows: int) -> pd.DataFrame:
    """The first rows of the first table."""
    first = made[0]
    return first.frame.head(rows)


def _parts(home: Home, request: DataRequest, whole: str, renewal: int) -> list[Part]:
    tables, keys = _tables(request), {key.of_child[0]: key for key in request.spec.source.keys}
    made: dict[str, Part] = {}
    while len(made) < len(tables):
        for name in tables:
            key = keys.get(name)
            if name in made or (key is not None and key.of_parent[0] not in made):
                continue
            parent = made[key.of_parent[0]] if key is not None else None
            made[name] = _part(home, request, (name, whole, renewal), key, parent)
    return list(made.values())


def _part(
    home: Home,
    request: DataRequest,
    identity: tuple[str, str, int],
    key: KeyDeclaration | None,
    parent: Part | None,
) -> Part:
    name, whole, renewal = identity
    asked, about = request.spec, request.metadata
    seed = asked.seed if asked.seed is not None else int(whole[:15], 16)
    keys = None if parent is None or key is None else parent.frame[key.of_parent[1]]
    rows = asked.rows or 1
    if keys is not None and key is not None:
        rows = len(foreign_keys(keys, key, seed))
    full = f"{about.name}.{name}" if asked.source.tables else about.name
    order = Order(
        name=full,
        sample=SampleSpec(rows=max(rows, 1), seed=seed),
        splits=asked.splits,
        cases=asked.edge_cases,
        csv="csv" in asked.output.formats,
        csv_safe=asked.output.csv_safe,
        renewal=renewal,
    )
    release = hashlib.sha256(f"{whole} {name} {renewal}".encode()).hexdigest()
    table = Table(_tables(request)[name], asked.pii.locale or "en_US")
    if parent is not None and key is not None:
        table = table.child_of(parent.table, key)
    return Part(home, request, full, table, rows, release, order, key, keys)


def _tables(request: DataRequest) -> Mapping[str, TableDeclaration]:
    source = request.spec.source
    if source.declared is not None:
        return {"": source.declared}
    return {n: table for n, table in source.tables.items() if isinstance(table, TableDeclaration)}


def _retired(part: Part) -> bool:
    store = open_lake(part.home.lake)
    entry = log.find(store, part.name, part.key)
    return entry is not None and log.tombstone(store, part.name, entry) is not None


def _violations(metric: str, subject: str, broken: np.ndarray) -> Score:
    count = float(broken.sum())
    return Score(
        metric=metric,
        dimension="fidelity",
        subject=subject,
        value=count,
        low=count,
        high=count,
        unit="rows",
        n=len(broken),
    )


def _share_scores(
    name: str, column: ColumnDeclaration, cells: pd.Series, comparisons: int
) -> list[Score]:
    """How far shares are from the declared ones: the worst of a column, with its interval."""
    expected: dict[str, tuple[int, float]] = {}
    if column.null_share:
        expected["missing"] = (int(cells.isna().sum()), column.null_share)
    n, present = len(cells), cells.dropna()
    if isinstance(column.categories, dict) and len(present):
        total = sum(column.categories.values())
        texts = present.map(str)
        for category, weight in column.categories.items():
            share = weight / total * len(present) / n
            expected[category] = (int((texts == category).sum()), share)
    if not expected or not n:
        return []
    level = bonferroni(0.95, len(expected) * comparisons)
    errors: list[tuple[float, float, float]] = []
    for count, share in expected.values():
        interval = wilson(count, n, level)
        value = abs(count / n - share)
        least = max(0.0, interval.low - share, share - interval.high)
        most = max(abs(interval.low - share), abs(interval.high - share))
        errors.append((min(least, value), value, most))
    worst = max(errors)
    return [Score("declared_share_error", "fidelity", name, worst[1], worst[0], worst[2], n=n)]


@cache
def _contract() -> Contract:
    return load_contract(CONTRACT)


@cache
def _code() -> str:
    """Digest of the code that makes rows of a schema."""
    digest = hashlib.sha256(code_digest().encode())
    for name in ("declaration.py", "invention.py", "patterns.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    digest.update(version("faker").encode())
    return digest.hexdigest()
