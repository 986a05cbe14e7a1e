"""The OpenLineage event by its own library's classes; PROV-O, ODRL and RAI as rdflib reads them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import attr
import pytest
import rdflib
from rdflib.namespace import PROV, RDF

from pipelines.publication.croissant import CROISSANT
from pipelines.publication.lineage import OPEN_LINEAGE
from pipelines.publication.publish import publish

# The classes are generated from the JSON Schemas of the specification: they refuse what those do.
PARTS = {
    "schema": ("schema_dataset", {"fields": "SchemaDatasetFacetFields"}),
    "version": ("dataset_version_dataset", {}),
    "dataQualityAssertions": ("data_quality_assertions_dataset", {"assertions": "Assertion"}),
    "documentation": ("documentation_dataset", {}),
    "lifecycleStateChange": ("lifecycle_state_change_dataset", {}),
    "tags": ("tags_dataset", {"tags": "TagsDatasetFacetFields"}),
    "ownership": ("ownership_dataset", {"owners": "Owner"}),
    "columnLineage": ("column_lineage_dataset", {}),
    "outputStatistics": ("output_statistics_output_dataset", {}),
}


@pytest.fixture
def folder(make_release, tmp_path: Path) -> Path:
    facts = {
        "description": "Visits of people",
        "owners": ["team:data"],
        "tags": {"domain": "health"},
        "license": "mit",
        "reproduce": {"generator": "forest", "model_digest": "a" * 64},
        "protection": ["ages above 90 joined"],
        "citation": "A. Author",
    }
    return publish(tmp_path / "lake", make_release(facts=facts)).path


def parsed(name: str, content: dict[str, Any]) -> Any:
    """The facet as an object of the library; what the schema does not know is a TypeError."""
    module_name, lists = PARTS[name]
    module = importlib.import_module(f"openlineage.client.generated.{module_name}")
    own = {key: value for key, value in content.items() if not key.startswith("_")}
    for key, inner in lists.items():
        own[key] = [getattr(module, inner)(**item) for item in own[key]]
    if name == "columnLineage":
        for column, told in own["fields"].items():
            fields = [
                module.InputField(
                    **{
                        **one,
                        "transformations": [
                            module.Transformation(**t) for t in one["transformations"]
                        ],
                    }
                )
                for one in told["inputFields"]
            ]
            own["fields"][column] = module.Fields(inputFields=fields)
    if name == "lifecycleStateChange":
        own["lifecycleStateChange"] = module.LifecycleStateChange(own["lifecycleStateChange"])
    facet_class = content["_schemaURL"].rpartition("/")[2]
    facet = getattr(module, facet_class)(**own)
    assert facet._get_schema() == content["_schemaURL"]
    return facet


def test_the_event_is_one_by_the_classes_of_the_specification(folder: Path) -> None:
    events = pytest.importorskip("openlineage.client.event_v2")
    told = json.loads((folder / OPEN_LINEAGE).read_bytes())
    (output,) = told["outputs"]
    facets = {name: parsed(name, content) for name, content in output["facets"].items()}
    assert set(facets) == set(PARTS) - {"outputStatistics"}
    counts = {
        "outputStatistics": parsed("outputStatistics", output["outputFacets"]["outputStatistics"])
    }
    event = events.RunEvent(
        eventTime=told["eventTime"],
        producer=told["producer"],
        eventType=events.RunState(told["eventType"]),
        run=events.Run(**told["run"]),
        job=events.Job(**told["job"]),
        inputs=[events.InputDataset(**one) for one in told["inputs"]],
        outputs=[
            events.OutputDataset(
                namespace=output["namespace"],
                name=output["name"],
                facets=facets,
                outputFacets=counts,
            )
        ],
    )
    assert event.schemaURL == told["schemaURL"]
    assert facets["schema"].fields[0].name == "person_id"
    assert facets["ownership"].owners[0].name == "team:data"
    warned = [one for one in facets["dataQualityAssertions"].assertions if not one.success]
    assert [(one.name, one.severity) for one in warned] == [("utility-ratio", "warn")]
    assert counts["outputStatistics"].rowCount == 200
    lineage = facets["columnLineage"].fields["amount"].inputFields[0]
    assert (lineage.name, lineage.transformations[0].masking) == ("people.real", True)


@pytest.mark.parametrize("damage", ["unknown", "missing"])
def test_the_classes_refuse_a_damaged_facet(folder: Path, damage: str) -> None:
    pytest.importorskip("openlineage.client")
    facet = json.loads((folder / OPEN_LINEAGE).read_bytes())["outputs"][0]["facets"]["tags"]
    if damage == "unknown":
        facet["tags"][0]["colour"] = "red"
    else:
        del facet["tags"][0]["key"]
    with pytest.raises((TypeError, attr.exceptions.NotAnAttrsClassError)):
        parsed("tags", facet)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
def test_provenance_policy_and_responsibility_are_triples(folder: Path) -> None:
    graph = rdflib.Graph().parse(data=(folder / CROISSANT).read_text(), format="json-ld")
    odrl = rdflib.Namespace("http://www.w3.org/ns/odrl/2/")
    rai = rdflib.Namespace("http://mlcommons.org/croissant/RAI/")
    (dataset,) = graph.subjects(RDF.type, rdflib.URIRef("https://schema.org/Dataset"))
    (run,) = graph.objects(dataset, PROV.wasGeneratedBy)
    (model,) = graph.objects(run, PROV.used)
    (real,) = graph.objects(dataset, PROV.wasDerivedFrom)
    assert (model, PROV.wasDerivedFrom, real) in graph
    assert str(model) == f"urn:likeness:model:{'a' * 64}"
    (ended,) = graph.objects(run, PROV.endedAtTime)
    assert ended.toPython().isoformat() == "2026-01-31T12:00:00+00:00"
    (owner,) = graph.objects(dataset, PROV.wasAttributedTo)
    assert (owner, RDF.type, PROV.Agent) in graph
    (policy,) = graph.objects(dataset, odrl.hasPolicy)
    (permission,) = graph.objects(policy, odrl.permission)
    assert (permission, odrl.action, odrl.use) in graph
    prohibited = list(graph.objects(policy, odrl.prohibition))
    assert len(prohibited) == 2
    for one in prohibited:
        (action,) = graph.objects(one, odrl.action)
        (refined,) = graph.objects(action, odrl.refinement)
        assert (refined, odrl.leftOperand, odrl.purpose) in graph
    for name in (
        "dataLimitations", "dataBiases", "personalSensitiveInformation", "dataUseCases",
        "dataCollection", "dataCollectionType", "dataManipulationProtocol",
        "dataReleaseMaintenancePlan", "dataSocialImpact", "hasSyntheticData",
    ):  # fmt: skip
        assert list(graph.objects(dataset, rai[name])), name
