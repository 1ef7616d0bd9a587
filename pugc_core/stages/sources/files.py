"""The bytes of a file of posts: opened, unpacked, and refused where they could be no end of."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pugc_core import storage
from pugc_core.errors import PugcError, SourceError
from pugc_core.stages.sources import limits
from pugc_core.stages.sources.names import parse


@contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked. Raises SourceError for what is no file, and for more bytes than are allowed."""
    with _open(path) as file:
        pack = parse(path)[2]
        if not pack:
            yield io.BufferedReader(file, 1 << 20)
        else:
            with pa.CompressedInputStream(file, {"gz": "gzip", "zst": "zstd"}[pack]) as stream:
                yield io.BufferedReader(_Metered(path, stream, most_unpacked(path)), 1 << 20)


def most_unpacked(path: str) -> int:
    """How many bytes may come out of a packed file."""
    fs, inner = storage.filesystem(path)
    return limits.unpacked(int(fs.size(inner) or 0))


def refuse_bomb(path: str, most: int) -> SourceError:
    problem = (
        f"{path} unpacks to more than {most:,} bytes, over {limits.MOST_TIMES} times its size: that is no file of posts"
    )
    return SourceError(problem, fix="if it is one all the same, unpack it yourself and take the plain .jsonl or .csv")


def refuse_irregular(path: str) -> None:
    """Raise SourceError for a directory, a named pipe, a device or a socket. Nothing is opened: a pipe would wait."""
    if what := storage.irregular(path):
        raise SourceError(f"{path} is {what}, not a file of posts", fix="name the files themselves")


def _open(path: str) -> Any:
    try:
        refuse_irregular(path)
        fs, inner = storage.filesystem(path)
        fs.invalidate_cache(inner)
        return fs.open(inner, "rb")
    except PugcError:
        raise
    except FileNotFoundError as err:
        raise SourceError(f"{path} does not exist", fix="check the name, or put the file there again") from err
    except Exception as err:  # every driver has its own words for no access, no credentials, no such protocol
        raise SourceError(f"{path} cannot be opened: {words(err)}", fix="check path and permissions") from err


class _Metered(io.RawIOBase):
    """An unpacked stream that ends with SourceError at a number of bytes."""

    def __init__(self, path: str, stream: Any, most: int) -> None:
        self._path, self._stream, self._most, self._left = path, stream, most, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer))
        self._left -= count
        if self._left < 0:
            raise refuse_bomb(self._path, self._most)
        return count


def words(err: Exception) -> str:
    return " ".join(str(err).split())[:1000] or type(err).__name__


def wrong_encoding(path: str, found: str, encoding: str) -> SourceError:
    stem, kind, pack = parse(path)
    old, new = shlex.quote(f"{stem}.{kind}"), shlex.quote(f"{stem}-utf8.{kind}")
    fix = f"{'unpack it, then ' if pack else ''}iconv -f {encoding} -t UTF-8 {old} > {new}"
    return SourceError(f"{path} is not UTF-8: {found}", fix=fix)


def check_utf16(path: str, data: io.BufferedReader) -> None:
    head = data.peek(4)[:4]
    bare = [byte == 0 for byte in head] in ([False, True, False, True], [True, False, True, False])
    if bare or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise wrong_encoding(path, "it looks like UTF-16", "UTF-16")
