"""The command as a user types it: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators.schema import schema_from_json
from pipelines.publication.log import read_log
from pipelines.publication.manifest import VERDICT
from pipelines.publication.publish import PublishRequest, publish
from pipelines.publication.store import PublicationError
from pipelines.publication.verify import verify
from validators.base import Scorecard
from validators.verdict import scorecard_digest

from ..warm import likeness

SECRET = "Zaphod-Beeblebrox-42"


def people(n: int = 1_500) -> pd.DataFrame:
    """A table with dependence between its columns, so that there is something to learn."""
    rng = np.random.default_rng(11)
    age = rng.integers(18, 80, n)
    sex = rng.choice(["F", "M"], n)
    pay = np.round(np.exp(9 + age / 60 + 0.2 * (sex == "M") + 0.4 * rng.normal(size=n)), 2)
    rich = np.where(rng.random(n) < 1 / (1 + np.exp(-(pay - 20_000) / 6_000)), ">50K", "<=50K")
    return pd.DataFrame({"age": age, "sex": sex, "pay": pay, "income": rich})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("cli")
    people().to_csv(folder / "people.csv", index=False)
    options = ["--target", "income", "--protected", "sex", "--contract", "internal", "--json"]
    result = likeness("run", "people.csv", *options, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, json.loads(result.stdout)


def test_run_publishes_a_csv_without_any_yaml(published: tuple[Path, dict[str, object]]) -> None:
    folder, facts = published
    assert facts["passed"] is True
    version = facts["published"]
    assert isinstance(version, dict)
    synthetic = pd.read_parquet(Path(version["path"]) / "data")
    assert list(synthetic.columns) == ["age", "sex", "pay", "income"]
    assert len(synthetic) == 1_050
    assert Path(str(facts["report"])).is_file()
    judged = {gate["dimension"] for gate in facts["gates"]}  # type: ignore[attr-defined]
    assert judged == {"structure", "fidelity", "utility", "diversity", "privacy", "bias"}
    assert (folder / "likeness_home" / "vault").stat().st_mode & 0o777 == 0o700
    evidence = Path(version["path"]) / "reports" / "gx"
    ingest = (evidence / "ingest.json").read_text()
    assert json.loads(ingest)["success"]
    assert ">50K" not in ingest + (evidence / "ingest_suite.json").read_text()
    assert (evidence / "release_gate_suite.json").is_file()


def test_an_equal_run_is_the_same_version(published: tuple[Path, dict[str, object]]) -> None:
    folder, facts = published
    options = ["--target", "income", "--protected", "sex", "--contract", "internal", "--json"]
    again = json.loads(likeness("run", "people.csv", *options, cwd=folder).stdout)
    assert again["published"] == {**facts["published"], "existing": True}  # type: ignore[dict-item]
    assert len(read_log(folder / "likeness_home" / "lake", "people")) == 1


def test_verify_finds_a_flipped_byte(published: tuple[Path, dict[str, object]]) -> None:
    folder, facts = published
    assert likeness("verify", "people", cwd=folder).returncode == 0
    version = facts["published"]
    assert isinstance(version, dict)
    victim = sorted((Path(version["path"]) / "data").iterdir())[0]
    whole = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert likeness("verify", "people", cwd=folder).returncode == 3
    victim.write_bytes(whole)


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[bool, str]]:
    return {c["check"]: (c["passed"], c["detail"]) for c in json.loads(done.stdout)["checks"]}


def test_verify_samples_the_model_again(published: tuple[Path, dict[str, object]]) -> None:
    folder, _ = published
    verify = ["verify", "people", "--rebuild", "--json"]
    whole = likeness(*verify, cwd=folder)
    assert whole.returncode == 0, whole.stdout
    assert checks(whole)["rebuild"] == (True, "model and seed give the same 1,050 rows again")
    assert "judged again" in checks(whole)["gates"][1]
    models = folder / "likeness_home" / "vault" / "people" / "models"
    weights = next(models.glob("*/*.safetensors"))
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\x00\x00\x80\x3f")
    changed = likeness(*verify, cwd=folder)
    assert changed.returncode == 3
    assert "not the one" in checks(changed)["rebuild"][1]
    weights.write_bytes(kept)
    models.rename(models.with_name("gone"))
    gone = likeness(*verify, cwd=folder)
    models.with_name("gone").rename(models)
    assert gone.returncode == 3
    assert "it was removed" in checks(gone)["rebuild"][1]
    elsewhere = likeness("verify", "people", "--home", "other", "--rebuild", "--json", cwd=folder)
    assert elsewhere.returncode == 2


def test_a_verdict_that_the_scores_do_not_carry_is_not_published(
    published: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder, facts = published
    version = facts["published"]
    assert isinstance(version, dict)
    source = Path(version["path"])
    files = {
        path.relative_to(source).as_posix(): path for path in source.glob("*/*") if path.is_file()
    }
    real = next((folder / "likeness_home" / "vault" / "people" / "real").iterdir())
    schema = schema_from_json((real / "schema.json").read_text("utf-8"))
    request = PublishRequest(
        dataset="people",
        key="forged",
        files=files,
        schema=schema,
        rows=1_050,
        content_digest=version["content_digest"],
        facts={},
        created_at="2026-01-31T12:00:00+00:00",
    )
    publish(tmp_path / "honest", request)
    assert verify(tmp_path / "honest", "people").passed
    scores = json.loads((source / "reports" / "scorecard.json").read_text("utf-8"))
    for score in scores["scores"]:
        if score["metric"] == "membership_auc":
            score["high"] = 0.9
    forged = tmp_path / "scorecard.json"
    forged.write_text(json.dumps(scores))
    swapped = replace(request, files={**files, "reports/scorecard.json": forged})
    with pytest.raises(PublicationError, match="gates: the verdict must be about this scorecard"):
        publish(tmp_path / "lake", swapped)
    verdict = json.loads((source / "reports" / "verdict.json").read_text("utf-8"))
    bound = scorecard_digest(Scorecard.from_json(forged.read_text("utf-8")))
    told = tmp_path / "verdict.json"
    told.write_text(json.dumps({**verdict, "scorecard_digest": bound}))
    with pytest.raises(PublicationError, match="privacy-membership must say what the scores say"):
        publish(tmp_path / "lake", replace(swapped, files={**swapped.files, VERDICT: told}))
    assert not read_log(tmp_path / "lake", "people")


def test_fit_sample_validate(published: tuple[Path, dict[str, object]]) -> None:
    folder, _ = published
    fitted = json.loads(
        likeness("fit", "people.csv", "--set", "epochs=2", "--json", cwd=folder).stdout
    )
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        options = ["--rows", 300, "--seed", seed, "--output", f"{name}.parquet"]
        assert likeness("sample", fitted["folder"], *options, cwd=folder).returncode == 0
    a, b, c = (pd.read_parquet(folder / f"{name}.parquet") for name in "abc")
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)
    frame = people(3_000)
    frame[:1_000].to_csv(folder / "real.csv", index=False)
    frame[1_000:2_000].to_csv(folder / "unseen.csv", index=False)
    options = ["--train", "real.csv", "--holdout", "unseen.csv", "--target", "income", "--json"]
    copied = likeness("validate", "real.csv", *options, "--output", "copied", cwd=folder)
    assert copied.returncode == 3, copied.stderr
    verdict = json.loads((folder / "copied" / "verdict.json").read_text("utf-8"))
    failed = {g["dimension"] for g in verdict["gates"] if g["status"] == "failed"}
    assert "privacy" in failed
    assert (folder / "copied" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "must exist"),
        (["empty.csv"], "is empty"),
        (["one.csv"], "at least 50 rows"),
        (["constant.csv"], "one constant value in: 'same'"),
        (["nothing.csv"], "only missing values in: 'gone'"),
        (["twice.csv"], "occur more than once"),
        (["wide.csv"], "10000"),
        (["latin.csv"], "must be UTF-8"),
        (["cut.parquet"], "damaged, truncated"),
        (["pictures"], "2 of 2 are"),
        (["good.csv", "--target", "salary"], "salary is not one"),
        (["good.csv", "--protected", "race"], "race is not one"),
        (["good.csv", "--generator", "forrest"], "did you mean 'forest'"),
        (["good.csv", "--generator", "diffusion"], "diffusion is for images"),
        (["good.csv", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["good.csv", "--set", "trees"], "takes NAME=VALUE"),
        (["good.csv", "--contract", "lenient"], "lenient"),
        (["good.csv", "--rows", "0"], "--rows"),
        (["no-such-dataset"], "neither"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, arguments: list[str], message: str) -> None:
    good = people(200).assign(name=SECRET)
    good = good.drop(columns="name")
    good.to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "empty.csv").touch()
    good[:1].to_csv(tmp_path / "one.csv", index=False)
    good.assign(same=SECRET).to_csv(tmp_path / "constant.csv", index=False)
    good.assign(gone=None).to_csv(tmp_path / "nothing.csv", index=False)
    (tmp_path / "twice.csv").write_text(f"a,a\n{SECRET},2\n", encoding="utf-8")
    header = ",".join(f"c{i}" for i in range(10_000))
    (tmp_path / "wide.csv").write_text(f"{header}\n{header}\n", encoding="utf-8")
    (tmp_path / "latin.csv").write_bytes("a,b\nJosé,1\n".encode("latin1"))
    good.to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).write_bytes(SECRET.encode())
    result = likeness("run", *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    said = " ".join((result.stdout + result.stderr).split())
    assert message in said
    assert SECRET not in said
    assert "Traceback" not in said
    written = [p for p in (tmp_path / "likeness_home").rglob("*") if p.is_file()]
    assert not [path for path in written if "real" not in path.parts and path.name != "real.json"]


@pytest.mark.parametrize("command", ["datasets", "generators", "validators"])
def test_lists(tmp_path: Path, command: str) -> None:
    result = likeness(command, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)[command]
    assert len(rows) >= 4


def test_a_generator_explains_its_fields(tmp_path: Path) -> None:
    rows = json.loads(likeness("generators", "forest", "--json", cwd=tmp_path).stdout)["fields"]
    assert {"trees", "min_leaf", "seed"} <= {row["field"] for row in rows}
