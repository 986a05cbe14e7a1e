"""The evidence of Great Expectations is complete in a release, or there is no release."""

import pytest

from generators.base import CheckpointError
from pipelines.steps import gx_evidence

REQUIRED = [
    "data_docs/index.html",
    "release_gate.json",
    "release_gate_suite.json",
    "structure.json",
    "structure_suite.json",
]
INGESTED = ["ingest.json", "ingest_suite.json"]


@pytest.fixture
def folders(tmp_path):
    for folder, names in (("judged", REQUIRED), ("ingested", INGESTED)):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    return tmp_path


def test_all_of_it_is_published_under_its_name(folders):
    found = gx_evidence(folders / "judged", folders / "ingested")
    assert set(found) == {f"reports/gx/{name}" for name in (*REQUIRED, *INGESTED)}
    assert all(path.is_file() for path in found.values())


@pytest.mark.parametrize("name", [*REQUIRED, *INGESTED])
def test_without_a_part_nothing_is_published(folders, name):
    (folders / ("judged" if name in REQUIRED else "ingested") / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        gx_evidence(folders / "judged", folders / "ingested")
