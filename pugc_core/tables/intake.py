"""Files on their way into the inbox: what shards they become, and what stands in their way.

Posts must not come twice. A file is refused whose content is there under another name, and one whose posts are mostly
there in another cut: whole beside its parts, or parts beside the whole. (Posts that recur among others are dropped
later, as duplicates.)
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from pugc_core import storage
from pugc_core.errors import SourceError
from pugc_core.stages import sources
from pugc_core.stages.fields import Fields
from pugc_core.stages.sources.limits import MOST_COLUMNS
from pugc_core.stages.sources.names import parse
from pugc_core.stages.sources.stackexchange import site
from pugc_core.stages.split import split
from pugc_core.tables.store import file_hash
from pugc_core.tables.workspace import Workspace

log = logging.getLogger("pugc")
_MOSTLY = 0.5
"""Share of a shard's rows that make it another cut of the same file."""


class _Part(NamedTuple):
    """A file to be: its name and its bytes; None where they are those of the whole file, which is copied."""

    name: str
    data: bytes | None


def take(
    workspace: Workspace, files: Sequence[str], *, rows: int | None = None, replace: bool = False
) -> dict[str, str]:
    """Copy files of posts into the inbox, but for those that are there already. Returns the inbox path by shard.

    With `rows`, each file becomes shards of that many rows. Every file is read through before any is taken. Raises
    SourceError for a file that cannot be used at all, for a name that is no shard name, and, unless `replace`, where a
    shard is there already with other content or the posts are there already in other shards. With `replace` those
    shards go.
    """
    known, hashes = workspace.shards(), workspace.source_hashes()
    taken: dict[str, str] = {}
    origins: dict[str, str] = {}
    gone: set[str] = set()
    there: set[str] = set()
    for path in files:
        _look_through(path)
        count = 0
        for part in _parts(path, rows):
            count += 1
            shard, content = sources.shard_name(part.name), _hash(path, part)
            if shard in taken:
                raise SourceError(f"{path} and another file would both be shard {shard}", fix="rename one of them")
            if origins.setdefault(content, path) != path:
                raise SourceError(f"{path} has the same posts as {origins[content]}", fix="leave one of them out")
            if shard in known and hashes[shard] != content and not replace:
                raise SourceError(
                    f"shard {shard} is already there as {known[shard]}, with other content",
                    fix=f"rename {path}, or pugc ingest --replace",
                )
            if hashes.get(shard) != content:
                gone |= {other for other, found in hashes.items() if found == content}
            taken[shard] = storage.join(workspace.inbox, part.name)
            if hashes.get(shard) == content and known[shard] == taken[shard]:
                there.add(taken[shard])
        stem = shard_of(path)
        gone |= _other_cuts(path, stem, known, taken)
        gone -= taken.keys()
        if gone and not replace:
            names = ", ".join(sorted(gone)[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
            problem = f"{path}: its posts are there already, as shard {names}; they would come twice"
            raise SourceError(problem, fix="leave it out, or take it in their place: pugc ingest --replace")
        if rows and replace and f"{stem}-0000" in known:  # a longer file of before had more parts
            parts = (f"{stem}-{number:04d}" for number in itertools.count(count))
            gone |= set(itertools.takewhile(known.__contains__, parts)) - taken.keys()
    for path in files:
        for part in _parts(path, rows):
            target = storage.join(workspace.inbox, part.name)
            if target not in there:
                storage.copy(path, target) if part.data is None else storage.write(target, part.data)
    for shard, path in known.items():
        if shard in gone or taken.get(shard, path) != path:
            storage.delete(path)  # or the same shard, replaced by a file of another format
    return taken


def shard_of(path: str) -> str:
    """The shard that a whole file becomes."""
    return sources.shard_name(_name(path))


def _look_through(path: str) -> None:
    """Raise SourceError for a file that is of no use, and warn of one that needs a recipe of its own."""
    columns: dict[str, None] = {}
    posts, others = 0, set()
    for raw in sources.read(path):
        posts += raw.other is None
        others |= {raw.other} - {None}
        if len(columns) < MOST_COLUMNS:
            columns |= dict.fromkeys(raw.fields or ())
    if not columns:
        raise SourceError(f"{path}: none of its rows can be read", fix="check that the file is what its suffix says")
    if not posts:
        raise SourceError(f"{path} holds no posts: only {', '.join(sorted(map(str, others)))}", fix="take Posts.xml")
    if not columns.keys() & set(Fields().text):
        log.warning(
            "%s has no column that is known to hold posts (%s), only %s; say which in a recipe: "
            '[ugc.fields] text = ["text", "body", "COLUMN"]',
            path,
            ", ".join(Fields().text),
            ", ".join(list(columns)[:20]),
        )


def _parts(path: str, rows: int | None) -> Iterator[_Part]:
    if rows:
        yield from (_Part(part.name, part.data) for part in split(path, rows))
    else:
        yield _Part(_name(path), None)


def _name(path: str) -> str:
    """The file's name in the inbox: its own, but a Posts.xml is named after its site, which its folder says."""
    name = path.rsplit("/", 1)[-1]
    stem, kind, pack = parse(path)
    if kind == "xml" and (host := site(path)):
        return ".".join(filter(None, (host.replace(".", "-"), kind, pack)))
    sources.check_shard(stem)
    return name


def _hash(path: str, part: _Part) -> str:
    return file_hash(path) if part.data is None else hashlib.sha256(part.data).hexdigest()[:16]


def _other_cuts(path: str, stem: str, known: Mapping[str, str], taken: Mapping[str, str]) -> set[str]:
    """The whole or the parts of the same name, where most of the rows of one are in the other."""
    named = re.compile(rf"{re.escape(stem)}(-\d{{4,}})?")
    found = {shard: place for shard, place in known.items() if shard not in taken and named.fullmatch(shard)}
    rows = _rows(path) if found else set()
    cuts = set()
    for shard, place in found.items():
        with contextlib.suppress(SourceError):  # what cannot be read holds no posts
            there = _rows(place)
            if len(rows & there) >= _MOSTLY * min(len(rows), len(there)):
                cuts.add(shard)
    return cuts


def _rows(path: str) -> set[int]:
    """A hash of 8 bytes for each row."""
    contents = (
        raw.raw.encode() if raw.fields is None else orjson.dumps(raw.fields, default=str, option=orjson.OPT_SORT_KEYS)
        for raw in sources.read(path)
    )
    return {int.from_bytes(hashlib.sha256(content).digest()[:8], "big") for content in contents}
