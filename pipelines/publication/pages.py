"""The pages of the catalogue: all datasets on one, and one for each dataset.

Each is a single file that loads nothing; it has the look of the report, and its sheet of styles.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from validators import charts, wording

from .card import strip, template
from .manifest import MANIFEST, README, REPORT, Gate, Manifest
from .preview import Sketch

if TYPE_CHECKING:
    from .catalogue import Edition, Listed

PAGE = "index.html"

_UNITS = ("B", "kB", "MB", "GB", "TB")
# Small shapes of columns on the first page.
_SHAPES = 6
_VERSIONS = 100
_BASE = "{base}"
"""What the page's script replaces by the place where the page lies."""


def index_page(listed: Sequence[Listed]) -> str:
    """The HTML of the first page."""
    newest = [item.manifest for item in listed if item.manifest]
    return template("index.html.j2").render(
        _shared()
        | {
            "listed": listed,
            "versions": sum(len(item.standing) for item in listed),
            "rows": sum(manifest.rows for manifest in newest),
            "kinds": sorted({manifest.kind for manifest in newest}),
            "shapes": _shapes,
        }
    )


def dataset_page(item: Listed) -> str:
    """The HTML of a dataset's page."""
    manifest = item.manifest
    return template("dataset.html.j2").render(
        _shared()
        | {
            "item": item,
            "m": manifest,
            "snapshot": item.newest.entry.snapshot if item.newest else "",
            "banner": _banner(item),
            "snippets": _snippets(item.newest) if item.newest else {},
            "editions": item.editions[:_VERSIONS],
            "judged": _judged,
            "readme": README,
            "report": REPORT,
            "manifest_name": MANIFEST,
        }
    )


def _shared() -> dict[str, Any]:
    report = (files("validators") / "templates" / "report.css").read_text("utf-8")
    own = (files("pipelines.publication") / "templates" / "catalogue.css").read_text("utf-8")
    return {
        "style": Markup(report + own),
        "sign": lambda kind, size=18: Markup(charts.sign(kind, size=size)),
        "dimensions": strip,
        "question": wording.DIMENSIONS.get,
        "leading": leading_gate,
        "kind_of": _kind_of,
        "metric": wording.metric_words,
        "figure": wording.number,
        "range": wording.interval,
        "size": size_in_words,
        "sketch": sketch_svg,
        "picture": data_uri,
    }


def headline(manifest: Manifest, dimension: str) -> str:
    """The number that stands for a dimension, with its measure in words."""
    gate = leading_gate(manifest, dimension)
    return (
        "" if gate is None else f"{wording.number(gate.value)} {wording.metric_words(gate.metric)}"
    )


def leading_gate(manifest: Manifest, dimension: str) -> Gate | None:
    """The gate whose number stands for a dimension: its first critical one that has a number."""
    gates = [gate for gate in manifest.verdict.of(dimension) if gate.value is not None]
    critical = [gate for gate in gates if gate.severity == "critical"]
    return next(iter([*critical, *gates]), None)


def size_in_words(count: int) -> str:
    """A number of bytes as people read it."""
    power = min(max(len(str(count)) - 1, 0) // 3, len(_UNITS) - 1)
    value = count / 1000**power
    return (
        f"{value:.1f} {_UNITS[power]}" if power and value < 10 else f"{value:.0f} {_UNITS[power]}"
    )


def sketch_svg(sketch: Sketch, width: int = 120, height: int = 28) -> Markup:
    """The bars of a sketch as inline SVG."""
    if not sketch.bars:
        return Markup("")
    step = width / len(sketch.bars)
    if sketch.levels:  # few levels stand together
        step = min(step, width / 6)
    gap = min(1.0 if not sketch.levels else 2.0, step / 4)
    bars = []
    for number, share in enumerate(sketch.bars):
        tall = max(share * (height - 1), 1.0 if share else 0.0)
        bars.append(
            f'<rect x="{number * step:.1f}" y="{height - tall:.1f}" '
            f'width="{step - gap:.1f}" height="{tall:.1f}"/>'
        )
    return Markup(
        f'<svg class="sketch" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'
    )


def _shapes(item: Listed) -> list[tuple[str, Sketch]]:
    found = item.preview.sketches if item.preview and not item.pictures else {}
    return [(name, sketch) for name, sketch in found.items() if sketch.bars][:_SHAPES]


def _kind_of(part: dict[str, Any]) -> str:
    """The sign of a dimension: a gate that warned shows, though the version was released."""
    return "warning" if part["warned"] else "passed" if part["total"] else "none"


def _banner(item: Listed) -> dict[str, str]:
    manifest = item.manifest
    if item.newest is None or manifest is None:
        return {"kind": "failed", "title": item.problem or "Nothing to read", "text": ""}
    asked = [gate for gate in manifest.verdict.gates if gate.applies]
    counted = wording.tally(
        hold=sum(gate.holds and not gate.open for gate in asked),
        undecided=sum(gate.holds and gate.open for gate in asked),
        warned=sum(not gate.holds for gate in asked),
    )
    waived = [gate.gate for gate in asked if gate.waiver]
    said = f"; waived by the owner: {', '.join(waived)}" if waived else ""
    return {
        "kind": "passed",
        "title": f"{item.name}@{item.newest.entry.version} is cleared for release",
        "text": f"Contract “{manifest.verdict.contract}”, {counted}{said}. "
        f"Published {item.newest.entry.at[:10]}, bound to content "
        f"{manifest.content_digest[:15]}…",
    }


def _judged(edition: Edition) -> list[tuple[str, Gate]]:
    """The number of each dimension of a version, to compare versions by."""
    if edition.manifest is None:
        return []
    manifest = edition.manifest
    found = [(name, leading_gate(manifest, name)) for name in manifest.verdict.dimensions]
    return [(name, gate) for name, gate in found if gate is not None and name != "structure"]


def _snippets(edition: Edition) -> dict[str, dict[str, str]]:
    """How to read a version in the tools people have: from a folder, and from a web server.

    ``{base}`` is where the dataset's folder lies; the page's script knows.
    """
    manifest, folder = edition.manifest, f"{_BASE}/{edition.entry.snapshot}"
    if manifest is None:
        return {}
    split = next(iter(manifest.splits), "train")
    urls = [f'"{folder}/{file.path}"' for file in manifest.data_files]
    one, several = urls[0], f"[{', '.join(urls)}]"
    joined = f"pd.concat(map(pd.read_parquet, {several}))"
    pandas = f"pd.read_parquet({one})" if len(urls) == 1 else joined
    return {
        "pandas": {
            "folder": f'import pandas as pd\ndf = pd.read_parquet("{folder}/data")',
            "web": f"import pandas as pd\ndf = {pandas}",
        },
        "polars": {
            "folder": f'import polars as pl\ndf = pl.read_parquet("{folder}/data/*.parquet")',
            "web": f"import polars as pl\ndf = pl.read_parquet({several})",
        },
        "DuckDB": {
            "folder": f"import duckdb\ndf = duckdb.sql(\"from '{folder}/data/*.parquet'\").df()",
            "web": 'import duckdb\ndf = duckdb.sql("from read_parquet('
            + several.replace('"', "'")
            + ')").df()',
        },
        "datasets": {
            "folder": "from datasets import load_dataset\n"
            f'ds = load_dataset("{folder}", split="{split}")',
            "web": "from datasets import load_dataset\n"
            f'ds = load_dataset("parquet", data_files={several}, split="train")',
        },
        "Croissant": {
            "folder": "import mlcroissant as mlc\n"
            f'records = mlc.Dataset("{folder}/croissant.json").records("{split}")',
            "web": "import mlcroissant as mlc\n"
            f'records = mlc.Dataset("{folder}/croissant.json").records("{split}")',
        },
    }


def data_uri(png: bytes) -> str:
    """A PNG file as a page holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
