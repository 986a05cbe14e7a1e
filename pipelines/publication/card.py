"""The card of a published version: ``README.md`` as Hugging Face and people read it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from .manifest import ColumnInfo, Gate, Manifest

TEMPLATES = Path(__file__).parent / "templates"
# Licences that the Hub knows by name; others are called "other" and named beside.
_HUB_LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "odc-by", "odbl", "pddl", "gpl-3.0"}
    | {"cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
    | {"unknown", "other"}
)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)


def render_card(manifest: Manifest) -> str:
    """The text of ``README.md``: YAML for machines, then what a reader wants to know first."""
    header = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return template("README.md.j2").render(m=manifest, header=header, strip=strip(manifest))


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, compiled; values in HTML are escaped, in Markdown by filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "text": _text, "number": number, "interval": interval}
    environment.globals["mark"] = mark
    return environment.get_template(name)


def strip(manifest: Manifest) -> list[dict[str, Any]]:
    """The verdict in one line: for each dimension, gates that hold, do not, are open, and all.

    ``state`` and ``sign`` are ``warn`` and ``!`` where a gate does not hold, ``unsure`` and ``?``
    where the rows were too few for every gate, else ``good`` and ``✓``.
    """
    return [_part(dimension, manifest) for dimension in manifest.verdict.dimensions]


def _part(dimension: str, manifest: Manifest) -> dict[str, Any]:
    gates = manifest.verdict.of(dimension)
    applied = [gate for gate in gates if gate.applies]
    warned = sum(not gate.holds for gate in applied)
    undecided = sum(gate.open for gate in gates)
    state, sign = ("warn", "!") if warned else ("good", "✓")
    if not warned and applied and undecided == len(applied):
        state, sign = "unsure", "?"
    return {
        "dimension": dimension,
        "passed": sum(gate.holds for gate in gates),
        "warned": warned,
        "open": undecided,
        "total": len(applied),
        "gates": gates,
        "state": state,
        "sign": sign,
    }


def mark(gate: Gate) -> str:
    """A sign and a word for the answer to a gate, so that it does not hang on colour."""
    if gate.status == "failed":
        return "⚠ warning" if gate.severity == "warning" else "✗ failed"
    if gate.status == "inconclusive":
        return "? open: too few rows to tell"
    return "✓ passed" if gate.status == "passed" else "– not applicable"


def number(value: float | None) -> str:
    """A number with about four digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval(gate: Gate) -> str:
    """The 95 % interval of a gate's number, where it has one."""
    if gate.low is None or gate.high is None or gate.low == gate.high:
        return ""
    return f"[{number(gate.low)}, {number(gate.high)}]"


def _front_matter(manifest: Manifest) -> dict[str, Any]:
    license_id = manifest.license.lower()
    known = license_id in _HUB_LICENSES
    header: dict[str, Any] = {
        "pretty_name": manifest.title or manifest.dataset,
        "license": license_id if known else "other",
    }
    if not known:
        header["license_name"] = license_id
    size = next((label for limit, label in _SIZES if manifest.rows < limit), "n>100M")
    bytes_of = dict.fromkeys(manifest.splits, 0)
    for file in manifest.data_files:
        bytes_of[file.split or "train"] += file.bytes
    header |= {
        "tags": ["synthetic", "likeness", "tabular" if manifest.kind == "table" else "image"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in bytes_of
                ],
            }
        ],
        "dataset_info": {
            "features": [
                {"name": column.name, "dtype": _hub_dtype(column)} for column in manifest.columns
            ],
            "splits": [
                {"name": split, "num_bytes": bytes_of[split], "num_examples": rows}
                for split, rows in manifest.splits.items()
            ],
            "download_size": sum(bytes_of.values()),
            "dataset_size": sum(bytes_of.values()),
        },
    }
    return header


def _hub_dtype(column: ColumnInfo) -> str:
    zone = re.fullmatch(r"timestamp\[(.+)\]", column.type)
    if zone:
        return f"timestamp[us, tz={zone[1]}]"
    return _HUB_DTYPES.get(column.type, column.type.replace("decimal(", "decimal128("))


_HUB_DTYPES = {
    "timestamp": "timestamp[us]",
    "date": "date32",
    "time": "time64[us]",
    "duration": "duration[us]",
}


def _text(value: str) -> str:
    """Text of others, as text: no HTML, no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", str(value)).replace("\r", "").strip()


def _cell(value: str) -> str:
    """The same, on one line, for a table."""
    return _text(" ".join(str(value).split()))
