"""The run that made a version, as an OpenLineage event (https://openlineage.io/spec/2-0-2).

DataHub, Marquez and others read it. The verdict stands in it as data quality assertions, by gate
and outcome; no number and no value of the data is in it.
"""

from __future__ import annotations

import uuid
from typing import Any

from .manifest import Manifest

OPEN_LINEAGE = "openlineage.json"

_PRODUCER = "urn:likeness"
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
        "inputs": [{"namespace": "likeness.vault", "name": f"{manifest.dataset}.real"}],
        "outputs": [_output(manifest)],
    }


def _output(manifest: Manifest) -> dict[str, Any]:
    columns = [
        {"name": column.name, "type": column.type, "description": column.description}
        for column in manifest.columns
    ]
    verdicts = [
        {"assertion": gate.gate, "success": gate.status == "passed"}
        for gate in manifest.verdict.gates
        if gate.status != "not applicable"
    ]
    facets = {
        "schema": _facet("SchemaDatasetFacet", "1-1-1", fields=columns),
        "version": _facet(
            "DatasetVersionDatasetFacet", "1-0-1", datasetVersion=manifest.content_digest
        ),
        "dataQualityAssertions": _facet(
            "DataQualityAssertionsDatasetFacet", "1-0-1", assertions=verdicts
        ),
    }
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


def _facet(name: str, version: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401
    schema = f"{_SPEC}/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": _PRODUCER, "_schemaURL": schema, **content}
