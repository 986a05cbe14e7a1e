"""The explanation of a generator is what the generator is."""

from __future__ import annotations

import dataclasses

import pytest

from generators import GENERATORS
from generators.base import ParameterError
from pipelines.declare import Options, to_spec
from pipelines.explain import explain


@pytest.mark.parametrize("name", GENERATORS)
def test_every_field_is_explained(name: str) -> None:
    about = explain(name, GENERATORS[name])
    fields = {field["field"]: field for field in about["fields"]}
    assert list(fields) == [field.name for field in dataclasses.fields(GENERATORS[name])]
    assert all(field["meaning"] for field in fields.values()), fields
    assert about["what"]
    assert about["when to use"]


def test_facts_of_ctgan() -> None:
    about = explain("ctgan", GENERATORS["ctgan"])
    assert "arXiv 1907.00503" in about["paper"]
    assert about["resume after a stop"]
    assert not explain("forest", GENERATORS["forest"])["resume after a stop"]
    bounds = {field["field"]: field["bounds"] for field in about["fields"]}
    assert "at least 1" in bounds["epochs"]
    assert "(0, 0.28)" in bounds["average"]


@pytest.mark.parametrize(
    ("key", "value"), [("epochs", "ten"), ("epochs", True), ("lr", None), ("compress_dims", 3)]
)
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"{key} of tvae must be"):
        GENERATORS["tvae"].from_parameters({key: value})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'epochs'"):
        GENERATORS["tvae"].from_parameters({"epoch": 3})


def test_an_exponent_without_a_point_is_a_number() -> None:
    spec = to_spec("randhie", Options(generator="tvae", settings=["lr=1e-3"]))
    assert spec.generator.parameters == {"lr": 1e-3}
