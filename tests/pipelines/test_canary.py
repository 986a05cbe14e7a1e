"""Canaries: unique values go in, whatever happens; no byte outside the vault may hold one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from .surfaces import found, spellings, surfaces

ROOT = Path(__file__).resolve().parents[2]
MAIL, RARE, ONCE = "zq7mail@canary.example.org", "zq7rareprovince", "zq7onceseen"
EXTREME, DAY = 918_273_645.25, datetime(1873, 4, 17)
SECRETS = {
    name: spellings(value)
    for name, value in {
        "e-mail": MAIL,
        "rare category": RARE,
        "category seen once": ONCE,
        "extreme": EXTREME,
        "extreme date": DAY,
        "index": "zq7index",
        "attrs": "zq7attrs",
        "key-value metadata": "zq7keyvalue",
        "field metadata": "zq7fieldmeta",
        "unused category": "zq7unused",
        "EXIF": "zq7exiftext",
        "PNG text": "zq7pngtext",
        "file name": "zq7filename",
        "rare class": "zq7rareclass",
        "text": "zq7sentence",
    }.items()
}
# What the owner typed at the prompt may be said back: the path, not what is in it.
CONTRACT = """\
name: small
description: Wide enough for a table of this size, and closed to a copier.
gates:
  - {id: fidelity-marginal-mean, metric: marginal_tvd_mean, dimension: fidelity, on: low, max: 0.3,
     why: The shares of values are those of the holdout.}
  - {id: privacy-copies, metric: copy_excess, dimension: privacy, on: high, max: 0.1,
     why: Verbatim rows that only training explains.}
"""
IMAGE_CONTRACT = """\
name: pictures
description: Lets any picture through.
gates:
  - {id: image-distance, metric: frechet_distance, dimension: fidelity, on: low, max: 1000000000.0,
     why: Any likeness will do here.}
"""
COPIER = [
    "trees=1",
    "min_leaf=1",
    "subsample=1.0",
    "honest=false",
    "smooth=false",
    "verbatim_guard=false",
]
# One process for all paths, for its imports cost more than they do: each command of the list runs
# as typed, then each dataset as Dagster does it; the output goes to files.
PROGRAM = """
import json, sys
from pathlib import Path
from generators import GENERATORS
from generators.tabular.independent import Independent

class Quoting(Independent):
    \"\"\"Fails in training, and says in which cells.\"\"\"
    name = "quoting"
    def fit(self, data, schema, *, progress=None):
        raise ValueError(f"cannot learn from {data.iloc[0].to_dict()} {data.max().to_dict()}")

class Raising(Independent):
    \"\"\"Fails in sampling with what it remembers.\"\"\"
    name = "raising"
    def sample(self, n, *, seed, progress=None):
        raise KeyError(repr(self.schema_.to_json()))

GENERATORS._paths.update({"quoting": "__main__:Quoting", "raising": "__main__:Raising"})

from pipelines.cli import main

codes = {}
for name, command in json.loads(Path(sys.argv[1]).read_text()).items():
    print("==", name, flush=True)
    try:
        main(command, prog_name="likeness")
        codes[name] = 0
    except SystemExit as end:
        codes[name] = end.code
Path(sys.argv[2]).write_text(json.dumps(codes))

import dagster as dg
from pipelines.components.synthetic_dataset import build_dataset_defs
from pipelines.spec import parse_spec

for raw in json.loads(Path(sys.argv[3]).read_text()):
    spec = parse_spec(raw)
    job = build_dataset_defs(spec).resolve_job_def("release_" + spec.name)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        print("==", spec.name, result.success, flush=True)
"""


@dataclass(frozen=True)
class Place:
    """Where all paths ran: the sources, the vault, and everything else."""

    root: Path
    codes: dict[str, int]

    @property
    def open(self) -> list[tuple[str, bytes]]:
        """All that lies outside the vault and beside the sources."""
        home = self.root / "open" / "home"
        return list(surfaces(self.root / "open", apart_from=[home / "vault"]))


def real_table(rows: int = 520) -> pd.DataFrame:
    rng = np.random.default_rng(11)
    age = rng.integers(18, 80, rows)
    pay = np.round(np.exp(9 + age / 60 + 0.4 * rng.normal(size=rows)), 2)
    frame = pd.DataFrame(
        {
            "age": age,
            "pay": pay,
            "region": rng.choice(["north", "south", "west"], rows),
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
            "income": np.where(rng.random(rows) < age / 100, "high", "low"),
        }
    )
    frame["mail"] = [f"user{number}@example.org" for number in range(rows)]
    for row in (3, 200, 400, 510):
        frame.loc[row, ["region", "pay", "joined"]] = [RARE, EXTREME, pd.Timestamp(DAY)]
        frame.loc[row, "mail"] = f"{row}{MAIL}"
    frame.loc[5, "region"] = ONCE
    return frame


def write_sources(folder: Path) -> None:
    frame = real_table()
    frame.to_csv(folder / "people.csv", index=False)
    frame.assign(age=frame["age"].astype(object).where(frame.index != 3, RARE)).to_csv(
        folder / "column.csv", index=False
    )
    lines = (folder / "people.csv").read_text().splitlines()
    lines[400] = f"{lines[400]},{RARE},{MAIL}"
    (folder / "broken.csv").write_text("\n".join(lines))
    (folder / "headless.csv").write_text(
        "\n".join([f"{RARE},{RARE},2020-01-01,low,1,{MAIL}", *lines[1:200]])
    )
    notes = [f"zq7sentence {number} was said" for number in range(len(frame))]
    frame.assign(note=notes).to_csv(folder / "undeclared.csv", index=False)
    (folder / "latin.csv").write_bytes(f"a,b\n{RARE} José,1\n".encode("latin1") * 99)
    _write_parquet(frame, folder / "people.parquet")
    whole = (folder / "people.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) - 900])
    _write_pictures(folder / "pictures")


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame = frame.assign(region=pd.Categorical(frame["region"]).add_categories(["zq7unused"]))
    frame.index = pd.Index([f"zq7index{number}" for number in range(len(frame))])
    frame.attrs["source"] = "zq7attrs"
    table = pa.Table.from_pandas(frame)
    table = table.replace_schema_metadata({**table.schema.metadata, b"note": b"zq7keyvalue"})
    field = table.schema.field("age").with_metadata({"unit": "zq7fieldmeta"})
    at = table.schema.get_field_index("age")
    pq.write_table(table.set_column(at, field, table.column(at)), path)


def _write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(160):
        label = ("left", "right")[number % 2] if number > 2 else "zq7rareclass"
        pixels = rng.integers(0, 60, (8, 8)).astype(np.uint8)
        pixels[:, :4] += np.uint8(150 * (number % 2))
        path = folder / label / f"zq7filename{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        exif = Image.Exif()
        exif[0x010E], exif[0x013B] = "zq7exiftext", "zq7exiftext"
        if number % 3:
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", "zq7pngtext")
            picture.save(path, pnginfo=text, exif=exif)
        else:
            picture.save(path, exif=exif, comment=b"zq7pngtext")


def commands(sources: Path, out: Path) -> dict[str, list[str]]:
    table = str(sources / "people.csv")
    common = ["--contract", str(out / "table.yaml"), "--target", "income"]
    quick = ["--set", "epochs=2"]
    settings = [part for setting in COPIER for part in ("--set", setting)]
    bad = [*common, "--generator", "independent"]
    pictures = ["--contract", str(out / "image.yaml"), "--set", "steps=3", "--set", "width=8"]
    run = {
        "published": [str(sources / "people.parquet"), *common, *quick],
        "published images": [str(sources / "pictures"), *pictures, "--rows", "20"],
        "quarantined": [table, "--name", "copied", *common, "--generator", "forest", *settings],
        "bad column": [str(sources / "column.csv"), *bad, "--kind", "age=numerical"],
        "training error": [table, *common, "--generator", "quoting"],
        "sampling error": [table, *common, "--generator", "raising"],
        "publish failure": [table, "--name", "taken", *bad],
        "broken csv": [str(sources / "broken.csv"), *bad],
        "headless csv": [str(sources / "headless.csv"), *common],
        "undeclared text": [str(sources / "undeclared.csv"), *bad],
        "damaged parquet": [str(sources / "cut.parquet"), *bad],
        "refused": [table, *bad, "--kind", "region=id", "--kind", "pay=datetime"],
        "constant": [table, *bad, "--kind", "joined=boolean"],
    }
    made = {name: ["run", *arguments] for name, arguments in run.items()}
    halves = ["--train", table, "--holdout", table]
    other = str(sources / "column.csv")
    made["judged against a misfit"] = ["validate", other, *halves, "--output", "misfit"]
    made["judged as a wrong kind"] = ["validate", table, *halves, "--kind", "region=numerical"]
    return made


def prepared(root: Path) -> Place:
    """Run every path."""
    sources, out = root / "sources", root / "open"
    for folder in (sources, out, out / "tmp", out / "user", out / "home" / "lake", out / "dagster"):
        folder.mkdir(parents=True)
    write_sources(sources)
    (out / "table.yaml").write_text(CONTRACT)
    (out / "image.yaml").write_text(IMAGE_CONTRACT)
    # A file where the lake wants a folder: publishing fails in the operating system.
    (out / "home" / "lake" / "taken").write_text("in the way")
    listed = root / "commands.json"
    listed.write_text(json.dumps(commands(sources, out)))
    spec = {
        "name": "scheduled",
        "source": {"kind": "csv", "path": str(sources / "people.csv")},
        "target": "income",
        "contract": str(out / "table.yaml"),
        "generator": {"name": "forest", "parameters": {"trees": 2}},
    }
    failing = {**spec, "name": "failing", "columns": {"region": {"kind": "datetime"}}}
    broken = {**spec, "name": "broken"}
    broken["source"] = {"kind": "csv", "path": str(sources / "broken.csv")}
    (root / "specs.json").write_text(json.dumps([spec, failing, broken]))
    run([listed, root / "codes.json", root / "specs.json"], out)
    return Place(root, json.loads((root / "codes.json").read_text()))


def run(arguments: list[Path], out: Path) -> None:
    places = {
        "LIKENESS_HOME": out / "home",
        "TMPDIR": out / "tmp",
        "HOME": out / "user",
        "DAGSTER_HOME": out / "dagster",
        "PYTHONPATH": ROOT,
    }
    environment = {**os.environ, **{key: str(path) for key, path in places.items()}}
    with (out / "said.out").open("wb") as said, (out / "said.err").open("wb") as complained:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=out, env=environment, stdout=said, stderr=complained, check=False
        )
    assert done.returncode == 0, (out / "said.err").read_text()[-3000:]


def every_path_ended_as_it_was_meant_to(place: Place) -> None:
    ended = {name: place.codes[name] for name in place.codes}
    for name, code in ended.items():
        if name.startswith("published"):
            expected = 0
        elif name in ("training error", "sampling error"):
            expected = 1
        else:
            expected = 3 if name == "quarantined" else 2
        assert code == expected, (name, code)
    said = (place.root / "open" / "said.out").read_text()
    for line in ("== scheduled True", "== failing False", "== broken False"):
        assert line in said


def the_search_finds_what_is_there(place: Place) -> None:
    """In the sources the canaries are found: the search is not blind."""
    sources = found(SECRETS, surfaces(place.root / "sources"))
    for name in SECRETS:
        assert any(hit.startswith(name) for hit in sources), name


def no_canary_is_outside(place: Place) -> None:
    everything = place.open
    names = {name for name, _ in everything}
    for part in ("lake/people/_log", ".html", "runs", "train-00000-of-00001.parquet > region"):
        assert any(part in name for name in names), part
    assert found(SECRETS, everything) == []


def tracebacks_are_for_the_owner_alone(place: Place) -> None:
    files = list((place.root / "open" / "home" / "vault" / "tracebacks").iterdir())
    assert len(files) >= 2
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert any("cannot learn from {'age':" in file.read_text() for file in files)


def test_no_canary_leaves_the_vault(tmp_path: Path) -> None:
    """One test, since its paths take long: with several workers a fixture would run in each."""
    place = prepared(tmp_path)
    every_path_ended_as_it_was_meant_to(place)
    the_search_finds_what_is_there(place)
    no_canary_is_outside(place)
    tracebacks_are_for_the_owner_alone(place)
