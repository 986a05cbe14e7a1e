"""Feed damaged files to the readers for a while; print how many, and what came of them.

Usage: python benchmarks/fuzz.py [--minutes 5] [--seed 0]

Each file is read in a process that serves many: what kills it is counted as a crash, and its bytes
are kept beside the results. Every refusal must be a DataError.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import multiprocessing as mp
import resource
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from generators.base import LikenessError
from pipelines.sources import images, tables

RESULTS = Path(__file__).parent / "results"
MEMORY = 4 << 30


def seeds() -> dict[str, list[bytes]]:
    """Whole files of each kind, to be damaged."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n": rng.integers(0, 99, 200),
            "x": rng.normal(size=200),
            "s": rng.choice(["a", "b,c", 'd"e', "f\ng"], 200),
            "t": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, 200), "D"),
        }
    )
    parquet = []
    for compression in ("none", "snappy", "zstd"):
        for checksum in (False, True):
            sink = pa.BufferOutputStream()
            table = pa.Table.from_pandas(frame)
            pq.write_table(table, sink, compression=compression, write_page_checksum=checksum)
            parquet.append(sink.getvalue().to_pybytes())
    pictures = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(buffer, kind)
        pictures.append(buffer.getvalue())
    return {"csv": [frame.to_csv(index=False).encode()], "parquet": parquet, "image": pictures}


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """``whole`` with bytes flipped, cut out, doubled or written over."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 8))):
        at = int(rng.integers(0, max(len(data), 1)))
        length = int(rng.geometric(0.2))
        match int(rng.integers(0, 5)):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + length] = rng.bytes(length)
            case _ if rng.random() < 0.2:
                del data[at:]
    return bytes(data)


def serve(pipe: Connection, folder: str) -> None:
    """Read what comes, tell what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    logging.disable()  # Pillow tells of each broken tag
    path = Path(folder) / "pictures" / "file"
    path.parent.mkdir(exist_ok=True)
    while True:
        kind, content = pipe.recv()
        file = path.with_suffix({"csv": ".csv", "parquet": ".parquet", "image": ".png"}[kind])
        file.write_bytes(content)
        try:
            if kind == "csv":
                tables.read_csv(file)
            elif kind == "parquet":
                tables.read_parquet(file)
            else:
                images.read_folder(file.parent)
            answer = "read"
        except LikenessError:
            answer = "refused"
        except MemoryError:
            answer = "too large"
        except Exception as error:  # noqa: BLE001 - what this looks for
            answer = f"unexpected {type(error).__name__}"
        file.unlink()
        pipe.send(answer)


def main() -> None:
    """Run for the given time and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = run(60 * options.minutes, options.seed, RESULTS)
    figures = {kind: dict(sorted(found.items())) for kind, found in counts.items()}
    (RESULTS / "fuzz.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for kind, found in figures.items():
        print(f"{kind}: {sum(found.values()):,} files:", found)


def run(seconds: float, seed: int, kept: Path) -> dict[str, Counter[str]]:
    """Damaged files for so long; answers by kind. What is no clean refusal is kept in a folder."""
    rng = np.random.default_rng(seed)
    whole = seeds()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in whole}
    context = mp.get_context("spawn")
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        reader, pipe = start(context, folder)
        while time.monotonic() < end:
            kind = str(rng.choice(list(whole)))
            content = damaged(whole[kind][int(rng.integers(len(whole[kind])))], rng)
            answer = "hang"
            try:
                pipe.send((kind, content))
                if pipe.poll(30):
                    answer = pipe.recv()
            except (EOFError, OSError):
                answer = "crash"
            counts[kind][answer] += 1
            if answer not in ("read", "refused", "too large"):
                name = f"fuzz-{kind}-{sum(counts[kind].values())}.bin"
                (kept / name).write_bytes(content)
            if answer in ("crash", "hang"):
                reader.kill()
                reader, pipe = start(context, folder)
        reader.kill()
    return counts


def start(
    context: mp.context.SpawnContext, folder: str
) -> tuple[mp.process.BaseProcess, Connection]:
    """A new reader and the pipe to it."""
    ours, theirs = context.Pipe()
    reader = context.Process(target=serve, args=(theirs, folder), daemon=True)
    reader.start()
    theirs.close()
    return reader, ours


if __name__ == "__main__":
    main()
