"""A folder as resources: `file://<name>/path` is the file `path` in it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from gateway.auth.principal import Principal
from gateway.core.policy import matches
from gateway.resources.mime import content_of, type_of
from gateway.resources.port import (
    Change,
    NotFound,
    ResourceContent,
    ResourceInfo,
    TemplateInfo,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.uris import MAX_URI
from gateway.tools.threads import ToolThreads

__all__ = ["DirectoryResources"]

_MAX_LISTED: Final = 10_000
_MAX_VISITED: Final = 100_000
_LIST_SECONDS: Final = 10.0
_MAX_DEPTH: Final = 32
# A file that was changed so recently may be changed again without that its time shows it.
_SETTLED_SECONDS: Final = 2.0
_OPEN: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_PLAIN: Final = "!$&'()*+,;=:@-._~"


class DirectoryResources:
    """The regular files below `folder`, whose own name may be a symbolic link; none below it is followed.

    Every part of a path is opened within the one before it, so nothing that happens to the folder meanwhile leads out
    of it. Names have to be spelt as the folder lists them, also where its file system sees no difference between small
    letters and capitals. What begins with a dot is left out unless `hidden`. `include` and `exclude` are patterns of
    paths in which `*` stands for any run of characters; `**/` may stand for nothing. Time and size of a file are its
    etag.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        hidden: bool = False,
        ttl: float = 0.0,
        permission: str | None = None,
        threads: ToolThreads | None = None,
    ) -> None:
        self.name = name
        self.permission = permission
        self._folder = folder
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._hidden = hidden
        self._ttl = ttl
        self._prefix = f"file://{name}/"
        # Of its own: a disk that hangs keeps them, and nothing else may wait for it.
        self._threads = threads or ToolThreads(4)

    def private(self, uri: str | None) -> bool:
        return False

    async def list(self, principal: Principal) -> list[ResourceInfo]:
        return await self._threads.run(lambda: list(self._walk()))

    async def templates(self, principal: Principal) -> list[TemplateInfo]:
        return [TemplateInfo(uri_template=f"{self._prefix}{{+path}}", name=self.name, description="A file by its path")]

    async def covers(self, principal: Principal, uri: str) -> bool:
        return self._parts(uri) is not None

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        parts = self._parts(uri)
        if parts is None:
            raise NotFound("There is no such resource.")
        return await self._threads.run(lambda: self._read(uri, parts, etag, max_bytes))

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Nothing tells of changes: files are looked at again when they are read."""

    async def close(self) -> None: ...

    def _parts(self, uri: str) -> list[str] | None:
        """The names on the way to the file; None where no file of this folder can be meant."""
        if not uri.startswith(self._prefix) or "?" in uri:
            return None
        parts = [unquote(part, errors="surrogateescape") for part in uri.removeprefix(self._prefix).split("/")]
        if len(parts) > _MAX_DEPTH or any(part in ("", ".", "..") or set("/\\\0") & set(part) for part in parts):
            return None
        return parts if self._shown("/".join(parts)) else None

    def _shown(self, path: str) -> bool:
        if not self._hidden and any(part.startswith(".") for part in path.split("/")):
            return False
        return _any(self._include, path) and not _any(self._exclude, path)

    def _enters(self, path: str) -> bool:
        """Whether a folder may hold something that is shown; its path ends with a slash."""
        if not self._hidden and any(part.startswith(".") for part in path.split("/")):
            return False
        return not _any([pattern for pattern in self._exclude if pattern.endswith("*")], path)

    # ---- in a thread

    def _read(self, uri: str, parts: list[str], etag: str | None, max_bytes: int) -> ResourceContent | Unchanged:
        with ExitStack() as stack:
            try:
                at = os.open(self._folder, _OPEN & ~os.O_NOFOLLOW | os.O_DIRECTORY)
            except OSError as error:
                raise Unavailable(f"The folder {self.name} can't be read now.") from error
            stack.callback(os.close, at)
            for place, part in enumerate(parts):
                last = place == len(parts) - 1
                try:
                    _check_spelling(at, part)
                    at = os.open(part, _OPEN if last else _OPEN | os.O_DIRECTORY, dir_fd=at)
                except OSError as error:
                    raise NotFound("There is no such resource.") from error
                stack.callback(os.close, at)
            found = os.fstat(at)
            if not stat.S_ISREG(found.st_mode):
                raise NotFound("There is no such resource.")
            tag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
            if tag == etag:
                return Unchanged(ttl=self._ttl)
            if found.st_size > max_bytes:
                raise TooLarge(f"The resource has {found.st_size} bytes; {max_bytes} are allowed.")
            with open(os.dup(at), "rb") as file:
                data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise TooLarge(f"The resource has more than the {max_bytes} bytes that are allowed.")
        settled = time.time() - found.st_mtime > _SETTLED_SECONDS
        return content_of(uri, data, type_of(parts[-1]), etag=tag if settled else None, ttl=self._ttl)

    def _walk(self) -> Iterator[ResourceInfo]:
        listed = visited = 0
        end = time.monotonic() + _LIST_SECONDS
        if not self._folder.is_dir():
            raise Unavailable(f"The folder {self.name} can't be read now.")
        top = os.path.realpath(self._folder)
        for path, folders, files, at in os.fwalk(top):
            above = "" if path == top else f"{os.path.relpath(path, top)}/"
            deep = above.count("/") >= _MAX_DEPTH - 1
            folders[:] = [] if deep else [name for name in sorted(folders) if self._enters(f"{above}{name}/")]
            for name in sorted(files):
                visited += 1
                if listed >= _MAX_LISTED or visited >= _MAX_VISITED or time.monotonic() > end:
                    return
                info = self._info(above + name, name, at) if self._shown(above + name) else None
                if info is not None:
                    listed += 1
                    yield info

    def _info(self, path: str, name: str, at: int) -> ResourceInfo | None:
        try:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError:
            return None
        uri = self._prefix + quote(path.encode(errors="surrogateescape"), safe=f"/{_PLAIN}")
        if not stat.S_ISREG(found.st_mode) or len(uri) > MAX_URI or "\\" in path:
            return None
        shown = path.encode("utf-8", "replace").decode()
        return ResourceInfo(uri=uri, name=shown, mime_type=type_of(name), size=found.st_size)


def _check_spelling(at: int, name: str) -> None:
    """Raises FileNotFoundError unless the folder lists the name letter by letter: another spelling that leads to the
    same file would get around what is denied."""
    with os.scandir(at) as entries:
        if not any(entry.name == name for entry in entries):
            raise FileNotFoundError(name)


def _any(patterns: Sequence[str], path: str) -> bool:
    # "**/x" and "/x" mean the x at the top too.
    return any(matches(pattern, path) or matches(pattern, f"/{path}") for pattern in patterns)
