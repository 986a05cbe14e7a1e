"""The audit of a generator: a copier is found, a careful one is not, and nothing is published."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipelines import steps
from pipelines.audit import audit
from pipelines.home import Home
from pipelines.spec import parse_spec
from validators.privacy.canaries import METRIC
from validators.verdict import scorecard_digest

COPIER = {
    "trees": 1,
    "min_leaf": 1,
    "subsample": 1.0,
    "honest": False,
    "smooth": False,
    "calibrate": False,
}


@pytest.fixture
def release(tmp_path):
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, 900)
    frame = pd.DataFrame(
        {
            "age": age,
            "pay": np.round(np.exp(9 + age / 60 + rng.normal(size=900)), 2),
            "town": rng.choice(["north", "south", "east"], 900),
        }
    )
    frame.to_csv(tmp_path / "people.csv", index=False)

    def build(**parameters):
        spec = parse_spec(
            {
                "name": "people",
                "source": {"kind": "csv", "path": str(tmp_path / "people.csv")},
                "generator": {"name": "forest", "parameters": parameters},
                # Of as many rows as learned a copier would show two canaries in three only.
                "rows": 3_000,
            }
        )
        home = Home(tmp_path / "home")
        return steps.prepare(spec, home, steps.ingest(spec, home))

    return build


def test_a_copier_is_found_and_a_careful_model_is_not(release):
    copier = audit(release(**COPIER, verbatim_guard=False), 200)
    careful = audit(release(min_leaf=40, privacy=0.5), 200)
    assert copier.found.epsilon.low > 1
    assert not copier.passed
    assert careful.passed
    assert careful.found.epsilon.low < copier.found.epsilon.low


def test_the_result_is_kept_in_the_vault_alone_and_found_again(release, tmp_path):
    audited = release(min_leaf=40)
    first = audit(audited, 120)
    assert first.path.is_relative_to(tmp_path / "home" / "vault")
    before = first.path.stat().st_mtime_ns
    assert audit(audited, 120) == first
    assert first.path.stat().st_mtime_ns == before
    first.path.unlink()
    assert audit(audited, 120).found == first.found  # the same inputs, the same numbers
    kept = json.loads(first.path.read_text())
    assert set(kept) >= {"canaries", "inserted", "guesses", "correct", "epsilon", "limit"}
    assert not audited.model_folder.exists()
    assert not audited.candidate_folder.exists()
    assert not list((tmp_path / "home").glob("lake/*"))


def test_images_are_audited_with_images(tmp_path):
    spec = parse_spec(
        {
            "name": "digits",
            "source": {"kind": "builtin", "name": "digits"},
            "generator": {"name": "diffusion", "parameters": {"steps": 10, "width": 16}},
        }
    )
    home = Home(tmp_path)
    result = audit(steps.prepare(spec, home, steps.ingest(spec, home)), 100)
    # Ten steps remember nobody.
    assert result.passed
    assert result.found.canaries == 100


def test_an_audit_stands_on_the_report_of_its_model_from_then_on(release):
    audited = release(min_leaf=40)
    steps.fit(audited)
    steps.sample(audited)
    (before,) = steps.score(audited).select(METRIC)
    steps.decide(audited)
    page = audited.evidence_folder / "report.html"
    assert before.skipped is not None
    assert "likeness audit" in page.read_text("utf-8")
    rest = [score for score in steps.score(audited) if score.metric != METRIC]

    found = audit(audited, 120).found
    audit(audited, 60)  # the one of most canaries stands
    card = steps.score(audited)
    (told,) = card.select(METRIC)
    assert (told.value, told.low, told.high) == found.epsilon
    assert told.n == found.canaries
    assert [score for score in card if score.metric != METRIC] == rest
    assert steps.decide(audited).scorecard_digest == scorecard_digest(card)
    text = " ".join(page.read_text("utf-8").split())
    assert "What planted records prove" in text
    assert f"{found.canaries} records that stand out" in text
    assert steps.score(audited) == card
    # Another seed is another model, which nobody has audited.
    other = replace(audited, spec=audited.spec.model_copy(update={"seed": 5}))
    assert not other.audit_files
