"""Requests for a learned dataset, answered by the real steps on real data."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from generators.base import Progress
from generators.schema import TableSchema
from pipelines import steps
from pipelines.home import Home
from pipelines.matching import ON_MODEL, UnfulfilledError, require_asked
from pipelines.order import CASE, Order
from pipelines.publication.log import is_retired, read_log, resolve
from pipelines.publication.retire import retire
from pipelines.publication.verify import verify
from pipelines.rebuild import rebuild
from pipelines.requests import Client, plan
from pipelines.requests.inbox import Inbox, InboxError, Status
from pipelines.requests.model import RequestSpec, parse_request
from pipelines.requests.work import _settled, admit, pending, process
from pipelines.spec import (
    ColumnSpec,
    DatasetSpec,
    ProtectionSpec,
    QuotaSpec,
    SampleSpec,
    SourceSpec,
)

from ...warm import ROOT, run
from .conftest import CANARY, given_up

Ask = Callable[..., dict[str, Any]]


def answered(home: Home, raw: dict[str, Any]) -> tuple[Status, pd.DataFrame]:
    client = Client(home.root)
    status = client.run(client.submit(raw).id)
    assert status.state == "PUBLISHED", (status.message, status.problems)
    return status, client.read(status.id)


def rejected(home: Home, raw: dict[str, Any]) -> set[str]:
    client = Client(home.root)
    status = client.status(client.submit(raw).id)
    assert status.state == "REJECTED", status
    return {problem.field for problem in status.problems}


def test_conditions_columns_splits_and_cases_are_met_exactly(home: Home, ask: Ask) -> None:
    raw = ask(
        where=["mdvis >= 1", {"column": "region", "op": "!=", "value": "west"}],
        columns={"exclude": ["disea"], "rename": {"hlthg": "good", "region": "place"}},
        splits={"train": 0.8, "test": 0.2},
        edge_cases={
            "null_rate": {"mdvis": 0.02},
            "boundary": ["mdvis"],
            "unseen_category": ["region"],
            "unicode": True,
            "duplicates": 0.01,
        },
        output={"formats": ["parquet", "csv"]},
        preview=7,
    )
    status, frame = answered(home, raw)
    ordinary = frame[frame[CASE].isna()]
    assert list(frame.columns) == ["mdvis", "lncoins", "physlm", "good", "place", CASE]
    assert len(ordinary) == 1_000
    assert (ordinary["mdvis"] >= 1).all()
    assert set(ordinary["place"]) <= {"north", "south", "__OTHER__"}
    cases = frame[CASE].value_counts()
    assert frame.loc[frame[CASE] == "null:mdvis", "mdvis"].isna().all()
    assert cases["null:mdvis"] / len(frame) == pytest.approx(0.02, abs=1 / len(frame))
    assert cases["duplicate"] / len(frame) == pytest.approx(0.01, abs=1 / len(frame))
    copies = frame.loc[frame[CASE] == "duplicate"].drop(columns=CASE)
    assert copies.merge(ordinary.drop(columns=CASE).drop_duplicates()).shape == copies.shape
    assert frame.loc[frame[CASE] == "unseen:place", "place"].eq("__UNSEEN__").all()
    assert (frame.loc[frame[CASE] == "boundary:mdvis:below", "mdvis"] < 0).all()
    folder = Path(str(status.events[-1].facts["location"]))
    sizes = {path.name: len(pd.read_parquet(path)) for path in (folder / "data").iterdir()}
    assert sorted(sizes.values())[0] == round(0.2 * len(frame))
    table = pd.read_csv(folder / "export" / "train.csv", keep_default_na=False)
    assert "'=1+1" in set(table["place"]) or "'=1+1" in set(
        pd.read_csv(folder / "export" / "test.csv")["place"]
    )
    assert not table["place"].astype(str).str.startswith("=").any()
    assert len(pd.read_parquet(str(status.preview))) == 7
    assert verify(home.lake, "visits-test").passed
    assert rebuild(home, "visits-test").passed
    assert b"real rows that fulfil" in (folder / "README.md").read_bytes()
    outside = [path for path in home.root.rglob("*") if path.is_file() and path != home.vault]
    shown = [path for path in outside if not path.is_relative_to(home.vault)]
    assert len(shown) > 20
    assert not [path for path in shown if CANARY.encode() in path.read_bytes()]
    assert not frame["place"].astype(str).str.contains(CANARY).any()


def test_an_equal_request_is_answered_at_once_and_a_seed_makes_another(
    home: Home, ask: Ask
) -> None:
    first, frame = answered(home, ask(rows=300))
    client = Client(home.root)
    receipt = client.submit(ask(rows=300, preview=5))
    assert receipt.state == "PUBLISHED"
    assert client.status(receipt.id).version == first.version == "visits-test@1"
    other, rows = answered(home, ask(rows=300, seed=5))
    assert other.version == "visits-test@2"
    assert not rows.equals(frame)
    seed = first.events[-1].facts
    assert seed["content_digest"] != other.events[-1].facts["content_digest"]


def test_quotas_are_exact_and_parity_holds(home: Home, ask: Ask) -> None:
    known = ["region in (north, south, west)"]
    shares = {"west": 0.5, "north": 0.1}
    _, frame = answered(
        home, ask(where=known, balance={"column": "region", "probabilities": shares})
    )
    assert frame["region"].value_counts().to_dict() == {"west": 500, "south": 400, "north": 100}
    fairness = {"target": "hlthg", "sensitive": ["region"]}
    _, fair = answered(home, ask(name="fair", where=known, fairness=fairness))
    outcomes = fair.groupby("region")["hlthg"].mean()
    assert outcomes.max() - outcomes.min() < 0.01


@pytest.mark.slow
def test_few_matching_real_rows_are_said_and_the_model_is_judged(home: Home, ask: Ask) -> None:
    status, frame = answered(home, ask(where=["mdvis >= 12"], rows=200))
    assert (frame["mdvis"] >= 12).all()
    folder = Path(str(status.events[-1].facts["location"]))
    assert status.likeness_on == ON_MODEL
    assert "is of the model" in status.message
    assert (
        json.loads((folder / "manifest.json").read_text())["reproduce"]["likeness_on"] == ON_MODEL
    )
    assert "too few to compare with" in (folder / "README.md").read_text()


def test_rows_that_are_not_what_was_asked_are_found() -> None:
    half = np.float32(0.1)
    frame = pd.DataFrame({"n": [1, 2, 3, 4], "side": list("abab"), "x": [half, half, half, half]})
    schema = TableSchema.infer(
        pd.concat([frame] * 50).assign(x=np.arange(200, dtype="float32") / 10)
    )
    quota = QuotaSpec(condition="side = a", share=0.5)
    sample = SampleSpec(rows=4, where=["n >= 1", "x <= 0.1"], quotas=[quota])
    order = Order(name="asked", sample=sample)
    require_asked(frame, schema, order)
    require_asked(frame[["side"]], schema, order)
    for wrong in (
        frame.assign(n=[0, 2, 3, 4]),
        frame.assign(side=list("aaab")),
        frame.assign(x=np.float32(0.2)),
        frame.iloc[:3],
    ):
        with pytest.raises(UnfulfilledError, match="nothing was published"):
            require_asked(wrong, schema, order)


def test_a_preview_of_copied_rows_is_not_shown(learned_home: Home, ask: Ask) -> None:
    asked = parse_request(ask(columns={"exclude": ["disea"]}))
    base = plan.find_base(learned_home, asked)
    assert base.real is not None
    release = plan.plan(learned_home, asked, base, base.real).release
    shown = steps.previewed(release, 50)
    assert shown is not None
    train = base.real.train()
    assert isinstance(train, pd.DataFrame)
    single = train[list(shown.columns)].drop_duplicates(keep=False)
    assert steps._copies(release, single.head(50))
    assert not steps._copies(release, shown)


def test_all_that_does_not_fit_the_data_is_told_at_once(home: Home, ask: Ask) -> None:
    fields = rejected(
        home,
        ask(
            where=["mdvis >= 1", "age > 3", "region = mars"],
            columns={"exclude": ["nothing"]},
            edge_cases={"boundary": ["region"], "null_rate": {"nope": 0.1}},
            quotas=["region = north:0.5", "hlthg = 1:0.5"],
        ),
    )
    assert {"spec.where.1", "spec.where.2", "spec.columns.exclude", "spec.quotas"} <= fields
    assert {"spec.edge_cases.boundary", "spec.edge_cases.null_rate"} <= fields
    assert rejected(home, ask(acceptance={"privacy-copies": {"max": 0.5}})) == {
        "spec.acceptance.privacy-copies"
    }
    assert rejected(home, ask(source={"dataset": "nowhere"})) == {"spec.source"}
    assert rejected(home, ask(generator={"use": "sdv-ctgan"}, where=["mdvis >= 1"])) == {
        "spec.generator.use"
    }


def test_an_answer_cannot_take_the_name_of_a_dataset(home: Home, ask: Ask) -> None:
    made = {"schema": {"columns": {"x": {"kind": "integer", "min": 0, "max": 1}}}}
    for name, source in (("visits", {"dataset": "visits"}), ("randhie", made), ("visits", made)):
        raw = ask(name, source=source, seed=1)
        assert rejected(home, raw) == {"metadata.name"}
    assert len(read_log(home.lake, "visits")) == 1


def test_a_tighter_bound_quarantines_with_its_number(home: Home, ask: Ask) -> None:
    client = Client(home.root)
    # No sample can prove that it copies less than never.
    status = client.run(client.submit(ask(acceptance={"privacy-copies": {"max": -0.5}})).id)
    assert status.state == "QUARANTINED"
    (gate,) = status.events[-1].facts["gates"]
    assert gate["gate"] == "privacy-copies"
    assert -0.5 < gate["value"] <= gate["high"]
    assert not (home.lake / "visits-test").exists()
    assert Path(str(status.report)).is_file()


def test_privacy_below_the_datasets_needs_approval(home: Home, ask: Ask) -> None:
    client = Client(home.root)
    identity = client.submit(ask(rows=100, privacy={"k": 1})).id
    assert client.status(identity).state == "NEEDS_APPROVAL"
    assert client.run(identity).state == "NEEDS_APPROVAL"
    assert pending(home) == []
    assert client.approve(identity).state == "QUEUED"
    assert pending(home) == [identity]


def test_what_the_owner_hides_is_shown_with_approval_only() -> None:
    own = DatasetSpec(
        name="people",
        source=SourceSpec(kind="csv", path="people.csv"),
        columns={"email": ColumnSpec(policy="drop"), "town": ColumnSpec(policy="mask")},
    )
    strict = own.model_copy(update={"protection": ProtectionSpec(pii="refuse")})

    def asked(**pii: Any) -> RequestSpec:
        return RequestSpec.model_validate({"source": {"dataset": "people"}, "pii": pii})

    assert "email: mask" in plan.less_hidden(asked(columns={"email": "mask"}), own)
    assert "fake instead of refuse" in plan.less_hidden(asked(policy="fake"), strict)
    assert "phone: mask" in plan.less_hidden(asked(columns={"phone": "mask"}), strict)
    for allowed in ({"policy": "drop"}, {"policy": "mask"}, {"columns": {"town": "drop"}}):
        assert plan.less_hidden(asked(**allowed), own) == ""


def test_a_multiple_of_the_rows_needs_approval_as_their_number_does(
    learned_home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = ask(scale=100.0)
    del raw["spec"]["rows"]
    assert plan.approval(parse_request(raw), learned_home) == ""
    monkeypatch.setattr(plan, "APPROVE_ROWS", 100_000)
    assert "100,000 rows" in plan.approval(parse_request(raw), learned_home)


def test_what_is_large_needs_approval_before_anything_is_read(
    tmp_path: Path, learned_home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason(home: Home, raw: dict[str, Any]) -> str:
        return plan.approval(parse_request(raw), home)

    unread = ask(source={"dataset": "randhie"}, scale=500.0)
    del unread["spec"]["rows"]
    assert "rows are asked for" in reason(Home(tmp_path), unread)
    unread["spec"]["scale"] = 2.0
    assert reason(Home(tmp_path), unread) == ""
    tables = {
        "parents": {"columns": {"id": {"kind": "id"}}, "primary_key": "id"},
        "children": {"columns": {"parent": {"kind": "integer", "min": 1, "max": 2}}},
    }
    key = {"child": "children.parent", "parent": "parents.id", "per_parent": {1_000: 0.5, 0: 0.5}}
    many = ask(source={"tables": tables, "keys": [key]}, rows=10_000)
    assert reason(Home(tmp_path), many) == ""
    many["spec"]["rows"] = 30_000
    assert "rows are asked for" in reason(Home(tmp_path), many)
    monkeypatch.setattr(plan, "APPROVE_CELLS", 5_000)
    assert "5,000 cells" in reason(learned_home, ask(rows=1_000))
    assert reason(learned_home, ask(rows=500)) == ""


def test_a_running_request_hears_of_its_cancellation(home: Home, ask: Ask) -> None:
    inbox = Inbox(home)
    identity = inbox.submit(ask(rows=100)).id

    def progress(told: Progress) -> None:
        if told.phase == "sample":
            inbox.cancel(identity)

    assert process(home, identity, progress).state == "CANCELED"
    assert not (home.lake / "visits-test").exists()


def test_an_expired_version_is_retired_and_purged_and_can_be_asked_for_again(
    home: Home, ask: Ask
) -> None:
    life = {"expires": "1s", "on_expiry": "purge"}
    status, frame = answered(home, ask(rows=100, lifecycle=life))
    while not pending(home):
        pass
    gone = process(home, status.id)
    assert [event.state for event in gone.events][-3:] == ["PUBLISHED", "EXPIRED", "PURGED"]
    assert not Path(str(status.events[-1].facts["location"])).exists()
    with pytest.raises(InboxError):
        Client(home.root).read(status.id)
    again, rows = answered(home, ask(rows=100))
    assert again.version == "visits-test@2"
    pd.testing.assert_frame_equal(rows, frame)


WORKER = """
import os, signal, sys
from pathlib import Path
from pipelines.home import Home
from pipelines.requests.work import process

def progress(report):
    if report.phase.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

print(process(Home(Path(sys.argv[1])), sys.argv[2], progress).version)
"""


def work(home: Home, identity: str, phase: str) -> subprocess.CompletedProcess[str]:
    return run(WORKER, home.root, identity, phase, cwd=ROOT)


def test_a_killed_worker_leaves_one_publication_to_the_next(home: Home, ask: Ask) -> None:
    inbox = Inbox(home)
    identity = inbox.submit(ask(rows=200)).id
    assert work(home, identity, "decide").returncode == -signal.SIGKILL
    assert inbox.status(identity).state == "RUNNING"
    assert pending(home) == [identity]
    done = process(home, identity)
    assert done.version == "visits-test@1"
    assert len(read_log(home.lake, "visits-test")) == 1


def test_a_worker_that_dies_again_and_again_is_given_up(home: Home, ask: Ask) -> None:
    inbox = Inbox(home)
    identity = inbox.submit(ask(rows=200)).id
    admit(home, identity)
    for attempt in range(1, 4):
        last = inbox.status(identity).events[-1].number
        assert inbox.append(identity, last, "RUNNING", attempt=attempt)
    assert process(home, identity).state == "FAILED"
    assert not (home.lake / "visits-test").exists()


@pytest.mark.slow
def test_what_was_committed_is_not_given_up(home: Home, ask: Ask) -> None:
    inbox = Inbox(home)
    status, _ = answered(home, ask(rows=100))
    # Three workers died between the commit and its event.
    last = status.events[-1].number
    (inbox.folder(status.id) / "events" / f"{last:04d}.json").unlink()
    given_up(home, status.id)
    assert process(home, status.id).version == "visits-test@1"
    assert inbox.status(status.id).state == "PUBLISHED"


def test_what_a_dead_worker_had_announced_and_published_is_the_answer(home: Home, ask: Ask) -> None:
    """Whatever the request: two learned tables cannot be found again without reading them."""
    inbox, identity = Inbox(home), Inbox(home).submit(ask(rows=200)).id
    admit(home, identity)
    (entry,) = read_log(home.lake, "visits")
    said = {name: getattr(entry, name) for name in ("key", "snapshot", "manifest_sha256")}
    there = {**said, "content_digest": entry.content_digest, "existing": True}
    for announced in ({"visits": there, "orders": {**there, "key": "another"}}, {"visits": there}):
        for facts in ({"attempt": 1}, {"phase": "publish", "commits": announced}):
            last = inbox.status(identity).events[-1].number
            assert inbox.append(identity, last, "RUNNING", **facts)
    given_up(home, identity)
    assert process(home, identity).versions == ("visits@1",)


def test_what_was_withdrawn_meanwhile_is_no_answer(home: Home, ask: Ask) -> None:
    inbox, version = Inbox(home), resolve(home.lake, "visits@1")
    first, second = (inbox.submit(ask(seed=seed)).id for seed in (1, 2))
    for identity in (first, second):
        assert inbox.append(identity, 1, "VALIDATED")
    assert _settled(inbox, first, (version,), inbox.request(first))
    assert inbox.status(first).version == "visits@1"
    # Between the look and the answer another worker withdraws it.
    assert not is_retired(version)
    retire(home.lake, version.name, "expired meanwhile")
    assert not _settled(inbox, second, (version,), inbox.request(second))
    assert inbox.status(second).state == "VALIDATED"
