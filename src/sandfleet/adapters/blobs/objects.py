"""Objects by name, with a bound on every wait and our errors. A directory's objects are synced to disk.

Fact: the library's own asynchronous calls call into the interpreter from foreign threads, which
kills a process that ends meanwhile. Its blocking ones do not, so they run in threads of ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from sandfleet.model.errors import BadRequest, BlobsUnavailable, NotFound

T = TypeVar("T")
CALL_TIMEOUT_S = 180.0
CALLS_AT_ONCE = 8
REQUEST_TIMEOUT = timedelta(seconds=60)
CONNECT_TIMEOUT = timedelta(seconds=5)
RETRIES_MAX = 4
RETRY_TIMEOUT = timedelta(seconds=60)
SCHEMES = ("file", "s3", "az", "gs")


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    name: str
    size: int
    changed_at: datetime


class Objects:
    """The objects under one URL."""

    def __init__(self, store: ObjectStore, *, directory: Path | None = None) -> None:
        self._store = store
        self._directory = directory
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="blobs")

    @classmethod
    def open(cls, url: str) -> Objects:
        """Return the store behind `url`; credentials come from the environment. Nothing is asked yet."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise BadRequest(f"an object store's URL begins with one of {', '.join(SCHEMES)}://")
        if parts.scheme == "file":
            directory = Path(unquote(parts.path)).resolve()
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return cls(LocalStore(directory), directory=directory)
        store = from_url(
            url,
            client_options={
                "timeout": REQUEST_TIMEOUT,
                "connect_timeout": CONNECT_TIMEOUT,
                "allow_http": True,
            },
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": RETRY_TIMEOUT},
        )
        return cls(store)

    async def put(self, name: str, content: bytes) -> None:
        """Write or replace one object."""

        def put() -> None:
            obstore.put(self._store, name, content)
            if self._directory is not None:
                _sync(self._directory / name)

        await self._call(put, name)

    async def get(self, name: str) -> bytes:
        """Return one object; `NotFound` when there is none."""
        return await self._call(lambda: bytes(obstore.get(self._store, name).bytes()), name)

    async def exists(self, name: str) -> bool:
        """Whether there is such an object, with anything in it."""
        try:
            described = await self._call(lambda: obstore.head(self._store, name), name)
        except NotFound:
            return False
        return described["size"] > 0

    async def delete(self, name: str) -> None:
        """Remove one object. Idempotent."""
        with suppress(NotFound):
            await self._call(lambda: obstore.delete(self._store, name), name)

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Yield the objects under `prefix`, in no order."""
        batches = await self._call(lambda: iter(obstore.list(self._store, prefix=prefix)), prefix)
        while True:
            batch = await self._call(lambda: next(batches, None), prefix)
            if batch is None:
                return
            for item in batch:
                yield Listed(item["path"], item["size"], item["last_modified"])

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, call: Callable[[], T], name: str) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (FileNotFoundError, NotFoundError) as error:
            raise NotFound(f"the object store has no {name}") from error
        except TimeoutError:
            raise BlobsUnavailable(f"the object store did not answer for {name}", retry_after_s=5) from None
        except (BaseError, OSError, ValueError) as error:
            said = str(error).strip() or type(error).__name__
            reason = said.splitlines()[0][:300]
            raise BlobsUnavailable(f"the object store refused {name}: {reason}", retry_after_s=5) from error


def _sync(path: Path) -> None:
    for name in (path, path.parent):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
