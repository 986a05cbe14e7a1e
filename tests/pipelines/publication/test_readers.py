"""The lines that the card prints, run as printed in the folder of the card, offline.

Each reader must give the same rows; the wanted ones are those that went into the release.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.publication.publish import publish

# What to append to the lines of a reader so that it tells its rows as one frame.
AS_FRAME = {
    "pandas": "df",
    "polars": "df.to_pandas()",
    "duckdb": "df",
    "datasets": "dataset.to_pandas()",
}
TELL = """
frame = {frame}
if "image" in frame:
    pictures = [Image.open(io.BytesIO(cell["bytes"])) for cell in frame["image"]]
    frame["image"] = [np.asarray(picture).tolist() for picture in pictures]
print(frame.to_json(orient="split", date_format="iso", date_unit="us", double_precision=15))
"""


def lines_of_the_card(folder: Path, reader: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (block,) = [text for text in blocks if re.match(rf"import [^\n]*\b{reader}\b", text)]
    assert len(block.strip().splitlines()) == 2
    return block


def read_by(reader: str, folders: list[Path], cache: Path) -> list[pd.DataFrame]:
    """What the reader gives in each folder, in one process: it starts but once."""
    code = "import io\nimport os\nimport numpy as np\nfrom PIL import Image\n"
    for folder in folders:
        code += f"os.chdir({str(folder)!r})\n{lines_of_the_card(folder, reader)}"
        code += TELL.format(frame=AS_FRAME[reader])
    if reader == "datasets":
        code += "assert dataset[3]['image'].size == (5, 6), 'pictures decode by themselves'\n"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache)}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    said = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    return [pd.DataFrame(one["data"], columns=one["columns"]) for one in said]


@pytest.mark.parametrize("reader", AS_FRAME)
def test_the_lines_of_the_card_give_the_rows(reader, make_release, frame, images, tmp_path):
    folders = [
        publish(tmp_path / "lake", make_release(frame)).path,
        publish(tmp_path / "lake", make_release(*images, dataset="pets", folder="pets")).path,
    ]
    table, pictures = read_by(reader, folders, tmp_path / "cache")
    assert list(table.columns) == list(frame.columns)
    for name in ("person_id", "amount", "visits"):
        wanted = frame[name].astype("Float64").to_numpy(float, na_value=np.nan)
        np.testing.assert_allclose(table[name].astype(float), wanted, rtol=1e-12)
    for name in ("sex", "town"):
        wanted = [None if pd.isna(value) else value for value in frame[name]]
        assert [None if pd.isna(value) else value for value in table[name]] == wanted
    assert table["insured"].tolist() == frame["insured"].tolist()
    since = pd.to_datetime(table["since"]).dt.tz_localize(None)
    assert since.tolist() == frame["since"].tolist()
    data, schema = images
    assert pictures["label"].tolist() == data.labels.tolist()
    assert pictures["label_name"].tolist() == [schema.classes[label] for label in data.labels]
    assert pictures["image"].tolist() == data.pixels[:, :, :, 0].tolist()
