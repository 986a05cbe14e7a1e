"""The declared datasets: complete, consistent with their data, readable without Dagster."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from generators.base import ParameterError
from pipelines.datasets import FOLDER, dataset_names, load_dataset
from pipelines.sources import RawTable, read_source

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = ["breast_cancer", "digits", "randhie", "randhie_leaky"]


def declare(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "defs.yaml").write_text(text)
    return folder


def test_the_shipped_datasets_are_listed() -> None:
    assert dataset_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_dataset_says_what_its_readers_must_know(name: str) -> None:
    spec = load_dataset(name)
    assert spec.description
    assert spec.citation
    assert spec.license
    assert spec.owners
    assert spec.tags["modality"] in ("table", "image")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_declared_columns_are_those_of_the_data(name: str, tmp_path: Path) -> None:
    spec = load_dataset(name)
    raw = read_source(spec.source, tmp_path)
    if not isinstance(raw, RawTable):
        assert spec.columns == {}
        return
    assert [*spec.columns] == [name for name in raw.frame.columns if name not in spec.drop]
    assert all(column.description for column in spec.columns.values())
    assert {spec.target, *spec.protected, *spec.entity} <= set(raw.frame.columns)


def test_the_leaky_dataset_is_randhie_but_for_its_generator() -> None:
    same = {"source", "columns", "target", "protected", "entity", "contract", "holdout"}
    leaky, randhie = load_dataset("randhie_leaky"), load_dataset("randhie")
    assert leaky.model_dump(include=same) == randhie.model_dump(include=same)
    assert leaky.generator.name == randhie.generator.name
    assert leaky.generator.parameters != randhie.generator.parameters


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'randhie'"):
        load_dataset("randhi")


@pytest.mark.parametrize("name", ["../randhie", "", ".", "randhie/../digits"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(ParameterError, match="a declared dataset is one of"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"sead": 1}, "sead"),
        ({"name": "other"}, "called as its folder"),
        ({"source": {"kind": "ftp"}}, "source.kind"),
    ],
)
def test_a_wrong_declaration_names_its_field(tmp_path: Path, change: dict, message: str) -> None:
    raw = yaml.safe_load((FOLDER / "randhie" / "defs.yaml").read_text())
    raw["attributes"] |= {"name": "mine"} | change
    with pytest.raises(ParameterError, match=message):
        load_dataset("mine", declare(tmp_path, "mine", yaml.safe_dump(raw)))


@pytest.mark.parametrize(
    "text", ["", "- a", "type: x\nattributes: {}", "attributes: {", "a: !!python/name:os.system"]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParameterError, match=r"defs\.yaml must"):
        load_dataset("mine", declare(tmp_path, "mine", text))


def test_reading_a_dataset_needs_no_dagster() -> None:
    program = (
        "import sys; from pipelines.datasets import load_dataset; load_dataset('randhie'); "
        "print([m for m in ('dagster', 'torch', 'sklearn', 'pipelines.steps') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert done.stdout.strip() == "[]"
