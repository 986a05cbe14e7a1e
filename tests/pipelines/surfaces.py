"""Every byte below a folder, also of what is compressed or encoded inside the files."""

from __future__ import annotations

import base64
import gzip
import io
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")
_DIGEST = re.compile(rb"[0-9a-f]+")
_ZSTD = b"\x28\xb5\x2f\xfd"
_MOST = 1 << 28
_PACKED = (b"PAR1", b"\x1f\x8b", _ZSTD, b"PK\x03\x04", b"\x89PNG")
"""How that begins which is also searched unpacked, and whose own bytes are as good as random."""
_CERTAIN = 6
"""So many bytes do not stand in a file by chance; a number of four may, where bytes are random."""


def spellings(secret: str | float | datetime) -> frozenset[bytes]:
    """The byte strings under which ``secret`` could stand in a file."""
    if isinstance(secret, datetime):
        micro = int(secret.replace(tzinfo=UTC).timestamp() * 1e6)
        texts = [f"{secret:%Y-%m-%d}", str(micro)]
        return frozenset([*(text.encode() for text in texts), struct.pack("<q", micro)])
    if isinstance(secret, float):
        texts = [
            f"{secret:.0f}",
            f"{int(secret)}",
            f"{int(secret):,}",
            f"{secret:.4e}",
            f"{secret:.3e}",
        ]
        packed = [struct.pack("<d", secret), struct.pack("<f", secret)]
        return frozenset([*(text.encode() for text in texts), *packed])
    assert len(secret) >= 8, "the base 64 of a shorter one stands anywhere by chance"
    plain = secret.encode()
    forms = {
        plain,
        quote(secret, safe="").encode(),
        secret.encode("utf-16-le"),
        plain.hex().encode(),
    }
    # Where the text starts within a group of three bytes decides its base 64.
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + plain)
        # The last group holds more than the text only where it was filled up.
        forms.add(encoded[4 if shift else 0 : -4 if encoded.endswith(b"=") else None])
    return frozenset(form.lower() for form in forms)


def surfaces(root: Path, *, apart_from: Iterable[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """What can be read below ``root``: names of files, their bytes, and what is inside them."""
    hidden = [path.resolve() for path in apart_from]
    for path in sorted(root.rglob("*")):
        if any(path.resolve().is_relative_to(folder) for folder in hidden):
            continue
        name = path.relative_to(root).as_posix()
        yield f"name of {name}", name.encode()
        if path.is_file():
            content = path.read_bytes()
            yield name, content
            yield from _inside(name, content)


def found(secrets: dict[str, frozenset[bytes]], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Which secret stands where."""
    return [
        f"{label} in {name}"
        for name, content in places
        for label, forms in secrets.items()
        for low in [content.lower()]
        if any(
            form in (low if form == form.lower() else content)
            for form in forms
            if len(form) >= _CERTAIN or not content.startswith(_PACKED)
        )
    ]


def _inside(name: str, content: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    if depth > 3:
        return
    for kind, part in _parts(content):
        yield f"{name} > {kind}", part
        yield from _inside(f"{name} > {kind}", part, depth + 1)


def _parts(content: bytes) -> Iterator[tuple[str, bytes]]:
    if content[:4] == b"PAR1" == content[-4:]:
        yield from _parquet(content)
    elif content[:16] == b"SQLite format 3\x00":
        yield from _sqlite(content)
    elif content[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(content)
    elif content[:4] == _ZSTD:
        yield "zstd", pa.input_stream(io.BytesIO(content), compression="zstd").read(_MOST)
    elif content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member, archive.read(member)
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png(content)
    else:
        if content[:2] in (b"\x78\x9c", b"\x78\xda", b"\x78\x01"):
            yield "zlib", zlib.decompressobj().decompress(content, _MOST)
        for number, match in enumerate(_BASE64.finditer(content)):
            text = match.group().rstrip(b"=")
            if _DIGEST.fullmatch(text):
                continue
            yield (
                f"base64 {number}",
                base64.b64decode(text + b"=" * (-len(text) % 4))[:_MOST]
                if (len(text) % 4 != 1)
                else b"",
            )


def _parquet(content: bytes) -> Iterator[tuple[str, bytes]]:
    file = pq.ParquetFile(io.BytesIO(content))
    yield "footer", f"{file.metadata.metadata} {file.schema_arrow}".encode()
    for group in range(file.metadata.num_row_groups):
        for number in range(file.metadata.num_columns):
            known = file.metadata.row_group(group).column(number).statistics
            if known is not None and known.has_min_max:
                yield "statistics", f"{known.min} {known.max}".encode()
    table = file.read()
    for column in table.column_names:
        values = table.column(column).to_pylist()
        pictures = [v["bytes"] for v in values if isinstance(v, dict) and "bytes" in v]
        yield column, "\n".join(map(str, values)).encode() if not pictures else b""
        for number, picture in enumerate(pictures):
            yield f"{column} {number}", picture


def _sqlite(content: bytes) -> Iterator[tuple[str, bytes]]:
    connection = sqlite3.connect(":memory:")
    # A database in write-ahead mode cannot live in memory; its log was folded in when it closed.
    connection.deserialize(content[:18] + b"\x01\x01" + content[20:])
    tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    for (table,) in tables:
        for row in connection.execute(f'select * from "{table}"'):
            for value in row:
                yield table, value if isinstance(value, bytes) else str(value).encode()
    connection.close()


def _png(content: bytes) -> Iterator[tuple[str, bytes]]:
    with Image.open(io.BytesIO(content)) as picture:
        yield "pixels", picture.tobytes()
        yield "text", repr(picture.info).encode()
