"""A release of a private family: its noise is the vault's, and its guarantee travels with it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from generators import load_generator
from pipelines import steps
from pipelines.audit import audit
from pipelines.home import Home
from pipelines.spec import parse_spec


def release_of(frame: pd.DataFrame, folder: Path, home: str, **parameters: object):
    frame.to_csv(folder / "people.csv", index=False)
    spec = parse_spec(
        {
            "name": "people",
            "source": {"kind": "csv", "path": str(folder / "people.csv")},
            "generator": {"name": "mst", "parameters": parameters},
        }
    )
    place = Home(folder / home)
    return steps.prepare(spec, place, steps.ingest(spec, place))


def people(rows: int = 900) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, rows)
    return pd.DataFrame({"age": age, "town": rng.choice(["north", "south", "east"], rows)})


def test_the_noise_is_the_vaults(tmp_path):
    def tables(home: str) -> np.ndarray:
        release = release_of(people(), tmp_path, home)
        steps.fit(release)
        model = load_generator(release.model_folder, release.home.secret)
        return np.concatenate([table.ravel() for table in model.branching_.tables])

    once = tables("one")
    # With the same seed, but with another secret.
    assert not np.array_equal(once, tables("two"))
    again = tmp_path / "again" / "vault"
    again.mkdir(parents=True)
    secret = (tmp_path / "one" / "vault" / "secret.key").read_bytes()
    (again / "secret.key").write_bytes(secret)
    assert np.array_equal(once, tables("again"))


def test_the_guarantee_is_published_and_no_audit_contradicts_it(tmp_path):
    release = release_of(people(), tmp_path, "home", epsilon=1.0)
    steps.fit(release)
    steps.sample(release)
    sentence = "ε = 1 and δ = 1e-06"
    assert any(sentence in note for note in steps._notes(release))
    assert sentence in json.loads((release.model_folder / "facts.json").read_text())["privacy"]
    assert audit(release, 200).found.epsilon.low <= 1.0
