from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from pipelines.publication.croissant import CROISSANT
from pipelines.publication.lineage import OPEN_LINEAGE
from pipelines.publication.manifest import Manifest
from pipelines.publication.metadata import MANIFEST_SCHEMA, TABLE_SCHEMA
from pipelines.publication.publish import publish
from pipelines.publication.verify import verify


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_bytes())


def break_nothing(manifest: dict) -> None:
    """The contrast: a manifest that is left alone passes."""


def drop_the_rows(manifest: dict) -> None:
    del manifest["rows"]


def add_a_field(manifest: dict) -> None:
    manifest["columns"][0]["levels"] = ["f", "m"]


def deny_the_mark(manifest: dict) -> None:
    manifest["synthetic"] = False


def cut_a_hash(manifest: dict) -> None:
    manifest["files"][0]["sha256"] = manifest["files"][0]["sha256"][:63]


def lose_bytes(manifest: dict) -> None:
    manifest["files"][0]["bytes"] = -1


def take_another_kind(manifest: dict) -> None:
    manifest["kind"] = "audio"


DAMAGES = [drop_the_rows, add_a_field, deny_the_mark, cut_a_hash, lose_bytes, take_another_kind]


@pytest.mark.parametrize("kind", ["table", "image"])
def test_the_published_schema_takes_the_manifest_and_refuses_a_damaged_one(
    kind, make_release, images, tmp_path
):
    release = make_release() if kind == "table" else make_release(*images)
    folder = publish(tmp_path / "lake", release).path
    schema, manifest = read(folder, MANIFEST_SCHEMA), read(folder, "manifest.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert manifest["kind"] == kind
    for damage in [break_nothing, *DAMAGES]:
        damaged = copy.deepcopy(manifest)
        damage(damaged)
        assert validator.is_valid(damaged) == (damage is break_nothing), damage.__name__


def test_the_schema_that_is_shipped_is_that_of_the_manifest(make_release, tmp_path):
    schema = read(publish(tmp_path / "lake", make_release()).path, MANIFEST_SCHEMA)
    assert schema.pop("$schema") == "https://json-schema.org/draft/2020-12/schema"
    assert schema.pop("$id") == "urn:likeness:manifest:1"
    assert schema == Manifest.model_json_schema(mode="serialization")


def test_the_table_schema_says_what_pandas_reads(make_release, frame, tmp_path):
    folder = publish(tmp_path / "lake", make_release(frame)).path
    read_back = pd.read_parquet(folder / "data")
    fields = {field["name"]: field for field in read(folder, TABLE_SCHEMA)["fields"]}
    assert list(fields) == list(read_back.columns)
    assert {name: field["type"] for name, field in fields.items()} == {
        "person_id": "integer",
        "amount": "number",
        "visits": "integer",
        "sex": "string",
        "town": "string",
        "insured": "boolean",
        "since": "datetime",
    }
    for name, field in fields.items():
        missing = int(read_back[name].isna().sum())
        assert field["likeness:missing"] == missing
        assert not (missing and field["constraints"]["required"])
    assert fields["town"]["constraints"] == {"required": False, "enum": ["Köln", "Ulm"]}
    assert fields["sex"]["likeness:role"] == "protected"


def test_only_categories_that_the_synthetic_rows_show_are_told(make_release, frame, tmp_path):
    frame["sex"] = frame["sex"].cat.add_categories(["unseen-and-real"])
    folder = publish(tmp_path / "lake", make_release(frame)).path
    fields = {field["name"]: field for field in read(folder, TABLE_SCHEMA)["fields"]}
    assert fields["sex"]["constraints"]["enum"] == ["f", "m"]
    for file in folder.rglob("*"):
        assert not file.is_file() or b"unseen-and-real" not in file.read_bytes()


def test_the_table_schema_of_images_has_their_classes_and_pictures(make_release, images, tmp_path):
    folder = publish(tmp_path / "lake", make_release(*images)).path
    fields = {field["name"]: field for field in read(folder, TABLE_SCHEMA)["fields"]}
    assert fields["label_name"]["constraints"]["enum"] == ["cat", "dog", "fox"]
    assert (fields["image"]["type"], fields["image"]["likeness:type"]) == ("any", "image")


def test_metadata_are_verified_and_the_same_each_time(make_release, tmp_path):
    one = publish(tmp_path / "one", make_release())
    other = publish(tmp_path / "other", make_release(folder="again"))
    for name in (MANIFEST_SCHEMA, TABLE_SCHEMA, CROISSANT):
        assert one.manifest().has(name)
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()
    assert verify(tmp_path / "one", "people").passed
    (one.path / TABLE_SCHEMA).chmod(0o644)
    (one.path / TABLE_SCHEMA).write_text("{}")
    assert not verify(tmp_path / "one", "people").passed


def test_what_is_written_at_the_commit_is_inspected_before_it(make_release, tmp_path):
    class Refusal(Exception):
        pass

    seen: dict[str, str] = {}

    def refuse(texts: dict[str, str]) -> None:
        seen.update(texts)
        raise Refusal

    with pytest.raises(Refusal):
        publish(tmp_path / "lake", make_release(), refuse)
    assert {"manifest.json", "README.md", MANIFEST_SCHEMA, TABLE_SCHEMA, CROISSANT} <= set(seen)
    assert not any((tmp_path / "lake").rglob("*.json"))


def test_lineage_tells_the_verdict_and_the_columns(make_release, tmp_path):
    folder = publish(tmp_path / "lake", make_release()).path
    event, manifest = read(folder, OPEN_LINEAGE), read(folder, "manifest.json")
    output = event["outputs"][0]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == manifest["rows"]
    assertions = output["facets"]["dataQualityAssertions"]["assertions"]
    found = {one["assertion"]: one["success"] for one in assertions}
    assert found == {
        gate["gate"]: gate["status"] == "passed" for gate in manifest["verdict"]["gates"]
    }
    assert not all(found.values())
    fields = [(field["name"], field["type"]) for field in output["facets"]["schema"]["fields"]]
    assert fields == [(column["name"], column["type"]) for column in manifest["columns"]]
