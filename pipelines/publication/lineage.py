"""The run that made a version, as an OpenLineage event (https://openlineage.io/spec/2-0-2).

DataHub, Marquez and others read it. The verdict stands in it as data quality assertions, by gate
outcome, severity and bound; no number and no value of the data is in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from .manifest import Manifest

OPEN_LINEAGE = "openlineage.json"

_PRODUCER = "urn:likeness"
_VAULT = "likeness.vault"
_SPEC = "https://openlineage.io/spec"


def open_lineage(manifest: Manifest) -> dict[str, Any]:
    """The COMPLETE event of the run; the same manifest gives the same event."""
    run = uuid.uuid5(uuid.NAMESPACE_URL, f"{_PRODUCER}:{manifest.key}")
    return {
        "eventType": "COMPLETE",
        "eventTime": manifest.created_at,
        "producer": _PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": str(run)},
        "job": {"namespace": "likeness", "name": f"{manifest.dataset}.published"},
        "inputs": [{"namespace": _VAULT, "name": f"{manifest.dataset}.real"}],
        "outputs": [_output(manifest)],
    }


def _output(manifest: Manifest) -> dict[str, Any]:
    columns = [
        {"name": column.name, "type": column.type, "description": column.description}
        for column in manifest.columns
    ]
    verdicts = [
        {
            "assertion": gate.metric or gate.gate,
            "name": gate.gate,
            "success": gate.holds,
            "severity": "error" if gate.severity == "critical" else "warn",
            "expected": gate.bound,
        }
        for gate in manifest.verdict.gates
        if gate.applies
    ]
    documentation = manifest.description or f"Synthetic {manifest.kind} dataset"
    tags = [{"key": key, "value": value, "source": "USER"} for key, value in manifest.tags.items()]
    tags.append({"key": "synthetic", "value": "true", "source": "LIKENESS"})
    facets = {
        "schema": _facet("SchemaDatasetFacet", "1-2-0", fields=columns),
        "version": _facet(
            "DatasetVersionDatasetFacet", "1-0-1", datasetVersion=manifest.content_digest
        ),
        "dataQualityAssertions": _facet(
            "DataQualityAssertionsDatasetFacet", "1-1-0", assertions=verdicts
        ),
        "documentation": _facet("DocumentationDatasetFacet", "1-1-0", description=documentation),
        "lifecycleStateChange": _facet(
            "LifecycleStateChangeDatasetFacet", "1-0-1", lifecycleStateChange="OVERWRITE"
        ),
        "tags": _facet("TagsDatasetFacet", "1-0-0", tags=tags),
        "columnLineage": _facet(
            "ColumnLineageDatasetFacet", "1-2-0", fields=dict(_from_real(manifest))
        ),
    }
    if manifest.owners:
        owners = [{"name": owner, "type": "OWNER"} for owner in manifest.owners]
        facets["ownership"] = _facet("OwnershipDatasetFacet", "1-0-1", owners=owners)
    statistics = _facet(
        "OutputStatisticsOutputDatasetFacet",
        "1-0-2",
        rowCount=manifest.rows,
        size=sum(file.bytes for file in manifest.data_files),
        fileCount=len(manifest.data_files),
    )
    return {
        "namespace": "likeness.lake",
        "name": manifest.dataset,
        "facets": facets,
        "outputFacets": {"outputStatistics": statistics},
    }


def _from_real(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each column comes from that of the real data by a model: no value of it is carried over."""
    for column in manifest.columns:
        source = {
            "namespace": _VAULT,
            "name": f"{manifest.dataset}.real",
            "field": column.name,
            "transformations": [
                {
                    "type": "INDIRECT",
                    "subtype": "SYNTHESIS",
                    "description": "sampled from a model that was fitted to protected data",
                    "masking": True,
                }
            ],
        }
        yield column.name, {"inputFields": [source]}


def _facet(name: str, version: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401
    schema = f"{_SPEC}/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": _PRODUCER, "_schemaURL": schema, **content}
