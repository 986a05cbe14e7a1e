"""A store in an object service: S3, Google Cloud Storage, Azure, by URL, through ``obstore``.

Such a service has no folders, no rename and nothing to sync: what it has acknowledged is durable,
and an object appears whole. So a folder "moves" by copies, its manifest last, and a reader who
comes by the log never sees a part of it. ``put_if_absent`` is the service's conditional put.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from typing_extensions import override

from generators.base import ParameterError

from .manifest import MANIFEST
from .store import PublicationError, Store, check_name

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ReadableFile
    from obstore.store import ObjectStore as Service

_BUFFER = 1 << 20


class ObjectStore(Store):
    """Objects below a URL such as ``s3://bucket/lake``.

    Credentials and endpoints come from the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS`` ...), never from the URL.

    Raises:
        ParameterError: the URL holds a password, or is of no known service.
    """

    def __init__(self, url: str) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        if "@" in url or "?" in url:
            raise ParameterError(
                "the URL of a lake must be service://bucket/prefix, it holds more; give "
                "credentials in the environment"
            )
        try:
            self._service: Service = from_url(url)
        except (BaseError, ValueError):
            raise ParameterError(
                "a lake must be a folder or the URL of an object service (s3://, gs://, az://), "
                "it is neither; check it"
            ) from None
        self.url = url.rstrip("/")

    @override
    def put_if_absent(self, name: str, data: bytes) -> bool:
        from obstore import put
        from obstore.exceptions import AlreadyExistsError

        with self._answering():
            try:
                put(self._service, check_name(name), data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    @override
    def put(self, name: str, data: bytes) -> None:
        from obstore import put

        with self._answering():
            put(self._service, check_name(name), data)

    @override
    def add(self, name: str, source: BinaryIO) -> None:
        from obstore import put

        with self._answering():
            put(self._service, check_name(name), source)

    @override
    def move(self, source: str, target: str) -> bool:
        from obstore import copy

        names = sorted(self.list(source), key=lambda name: (name.endswith(f"/{MANIFEST}"), name))
        if not names:
            raise PublicationError(f"a folder must hold files to move, {source} holds none")
        last = target + names[-1].removeprefix(source)
        if self.exists(last):
            return False
        with self._answering():
            for name in names[:-1]:
                copy(self._service, name, target + name.removeprefix(source))
        if not self.put_if_absent(last, self.get(names[-1])):
            return False
        self.delete(source)
        return True

    @override
    def fsync(self, folder: str) -> None:
        check_name(folder)

    @override
    def open(self, name: str) -> BinaryIO:
        from obstore import open_reader

        with self._answering(name):
            reader = open_reader(self._service, check_name(name), buffer_size=_BUFFER)
        return cast(BinaryIO, io.BufferedReader(_Reader(reader), _BUFFER))

    @override
    def get(self, name: str) -> bytes:
        from obstore import get

        with self._answering(name):
            return bytes(get(self._service, check_name(name)).bytes())

    @override
    def list(self, folder: str) -> list[str]:
        from obstore import list as listed

        with self._answering():
            found = listed(self._service, prefix=check_name(folder)).collect()
        return sorted(str(entry["path"]) for entry in found)

    @override
    def folders(self) -> Sequence[str]:
        from obstore import list_with_delimiter

        with self._answering():
            found = list_with_delimiter(self._service)["common_prefixes"]
        return sorted(str(prefix).rstrip("/") for prefix in found)

    @override
    def location(self, name: str) -> str:
        return f"{self.url}/{check_name(name)}"

    @override
    def exists(self, name: str) -> bool:
        from obstore import head

        try:
            with self._answering(name):
                head(self._service, check_name(name))
        except FileNotFoundError:
            return bool(self.list(name))
        return True

    @override
    def delete(self, name: str) -> None:
        from obstore import delete

        gone = [*self.list(name), check_name(name)]
        for one in gone:
            with suppress(FileNotFoundError), self._answering(one):
                delete(self._service, one)

    @override
    def touch(self, folder: str) -> None:
        check_name(folder)

    @contextmanager
    def _answering(self, wanted: str | None = None) -> Iterator[None]:
        """Say that the service does not answer; its own words may hold headers and keys.

        Raises:
            FileNotFoundError: it has no ``wanted``.
            PublicationError: it does not answer.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            if wanted is not None and isinstance(error, FileNotFoundError):
                raise FileNotFoundError(wanted) from None
            raise PublicationError(
                f"the object service of {self.url} must answer, it gave {type(error).__name__}; "
                "check the network, the bucket and the rights"
            ) from None


class _Reader(io.RawIOBase):
    """What ``obstore`` reads, as Python's files are."""

    def __init__(self, reader: ReadableFile) -> None:
        self._reader = reader

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._reader.read(len(view))
        view[: len(data)] = bytes(data)
        return len(data)

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._reader.tell()
