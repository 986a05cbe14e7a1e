"""The last gate before the commit: planted values are found in every kind of file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generators.schema import TableSchema
from pipelines import steps
from pipelines.home import Home
from pipelines.ingest import split_and_protect
from pipelines.protection.leaks import LeakError, Sensitive, count_copies, scan
from pipelines.sources import RawTable
from pipelines.spec import parse_spec

SECRET = "Zaphod Beeblebröx"
SENSITIVE = Sensitive({"name": (SECRET, "Ann", "person"), "pay": ("918273645.25", "17")})


def table(n: int = 600, seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).round(2)
    side = np.where(x + rng.normal(size=n) > 0, "left", "right")
    return pd.DataFrame({"x": x, "y": rng.integers(0, 50, n), "side": side})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.html", f"<p>{SECRET}</p>"),
        ("report.html", "<p>Zaphod Beeblebr&ouml;x</p>"),
        ("verdict.json", json.dumps({"a": SECRET})),
        ("verdict.json", json.dumps({"a": SECRET.upper()}, ensure_ascii=False)),
        ("scores.txt", "the most is 918273645.25 of all"),
        (f"reports/{SECRET}.txt", "nothing"),
    ],
)
def test_a_planted_value_is_found_and_not_told(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / "artefact"
    path.write_text(content)
    with pytest.raises(LeakError, match="nothing was published") as caught:
        scan({name: path}, {}, SENSITIVE, "")
    if SECRET not in name:
        assert SECRET not in str(caught.value)
    with pytest.raises(LeakError):
        scan({}, {name: content}, SENSITIVE, "")


def test_ordinary_words_and_short_values_are_no_leak(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("a person of 17, Annabel, is shown; 17 of them")
    assert scan({"report.html": path}, {}, SENSITIVE, "") > 0
    path.write_text(SECRET)
    assert scan({"report.html": path}, {}, SENSITIVE, f"declared: {SECRET}") > 0


def test_what_a_request_says_is_allowed_in_texts_and_not_in_rows(tmp_path: Path) -> None:
    asked = f'{{"purpose": "to find {SECRET}"}}'
    path = tmp_path / "file"
    path.write_text(f"quoted: {SECRET}")
    assert scan({"reports/report.html": path}, {"README.md": SECRET}, SENSITIVE, "", asked) > 0
    with pytest.raises(LeakError, match="train"):
        scan({"export/train.csv": path}, {}, SENSITIVE, "", asked)
    pq.write_table(pa.table({SECRET: ["Bob"]}), path)
    with pytest.raises(LeakError, match="train"):
        scan({"data/train.parquet": path}, {}, SENSITIVE, "", asked)


@pytest.mark.parametrize("where", ["cell", "footer", "field"])
def test_parquet_is_searched_decoded(tmp_path: Path, where: str) -> None:
    clean = pa.table({"name": ["Bob", "Eve"] * 50})
    planted = {
        "cell": pa.table({"name": ["Bob", f" {SECRET}"] * 50}),
        "footer": clean.replace_schema_metadata({"note": SECRET}),
        "field": pa.table({SECRET: ["Bob", "Eve"]}),
    }
    path = tmp_path / "part.parquet"
    pq.write_table(clean, path)
    scan({"data/part.parquet": path}, {}, SENSITIVE, "")
    pq.write_table(planted[where], path)
    with pytest.raises(LeakError):
        scan({"data/part.parquet": path}, {}, SENSITIVE, "")


def test_protection_tells_what_it_removed() -> None:
    frame = table()
    frame["note"] = [f"note of subject {number}" for number in range(len(frame))]
    frame["door"] = np.arange(len(frame)) + 10_000_000
    frame.loc[5, "side"] = "middle"
    frame.loc[7, "x"] = 55_555.125
    raw = {"name": "toy", "source": {"kind": "csv", "path": "x"}, "drop": ["door"]}
    spec = parse_spec({**raw, "columns": {"note": {"kind": "text"}}})
    removed = split_and_protect(RawTable(frame), spec).sensitive.values
    assert removed["side"] == ("middle",)
    assert "55555.125" in removed["x"]
    assert len(removed["note"]) == len(removed["door"]) == len(frame)


def test_a_copier_is_refused_and_chance_is_not() -> None:
    train, holdout, fresh = (table(2_000, seed) for seed in (1, 2, 3))
    schema = TableSchema.infer(pd.concat([train, holdout, fresh]))
    found, expected = count_copies([fresh[:100], fresh[100:]], train, holdout, schema)
    assert found == pytest.approx(expected, abs=6 * expected**0.5 + 6)
    with pytest.raises(LeakError, match="copies") as caught:
        count_copies([fresh, train[:900]], train, holdout, schema)
    assert "choose" in str(caught.value)


def test_nothing_is_committed_when_an_artefact_leaks(tmp_path: Path) -> None:
    """A defect behind the verdict: a report that quotes the real data."""
    frame = table(900)
    frame.loc[[3, 500], "side"] = SECRET
    frame.to_csv(tmp_path / "toy.csv", index=False)
    contract = tmp_path / "open.yaml"
    contract.write_text(
        "name: open\ndescription: Lets anything through.\ngates:\n"
        "  - {id: any, metric: marginal_tvd_mean, dimension: fidelity, on: low, max: 1.0,\n"
        "     why: Any likeness will do here.}\n"
    )
    raw = {"name": "toy", "source": {"kind": "csv", "path": str(tmp_path / "toy.csv")}}
    spec = parse_spec({**raw, "contract": str(contract), "generator": {"name": "independent"}})
    home = Home(tmp_path / "home")
    release = steps.prepare(spec, home, steps.ingest(spec, home))
    steps.fit(release)
    steps.sample(release)
    assert steps.decide(release).passed
    report = release.evidence_folder / "report.html"
    honest = report.read_text()
    report.write_text(honest.replace("</main>", f"{SECRET}</main>"))
    with pytest.raises(LeakError):
        steps.publish(release)
    assert not (home.lake / "toy").exists()
    report.write_text(honest)
    # A value that stands nowhere but in what the commit itself writes.
    kept = release.real.sensitive
    (data,) = steps.candidate_files(steps.candidate(release).folder)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    Sensitive({"side": (digest,)}).write(release.real.folder / "sensitive.json")
    with pytest.raises(LeakError, match=r"manifest\.json"):
        steps.publish(release)
    kept.write(release.real.folder / "sensitive.json")
    assert not list((home.lake / "toy").glob("_log/*"))
    facts = json.loads((steps.publish(release).path / "manifest.json").read_text())
    assert facts["reproduce"]["leak_scan"]["sensitive_values"] >= 1
