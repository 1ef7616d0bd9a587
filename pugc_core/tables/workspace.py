"""Where everything lies, under one root (a folder or an fsspec URL):

<root>/inbox/<shard>.jsonl ...           source files, one per shard
<root>/ledger/<model>/*.parquet          every generation ever made
<root>/tables/<recipe>/<stage>/<shard>.parquet
<root>/datasets/<recipe>/                train.parquet, test.parquet, README.md
<root>/policies/<recipe>/<objective>/    a Hugging Face folder
<root>/reports/<recipe>.html
<root>/runs/<recipe>.json                calls of the last run, by stage
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pugc_core import storage
from pugc_core.errors import SourceError, StorageError
from pugc_core.file_cache import cached
from pugc_core.stages import sources
from pugc_core.tables.store import Store, file_hash


@dataclass(frozen=True)
class Workspace:
    root: str
    _found: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def inbox(self) -> str:
        return storage.join(self.root, "inbox")

    @property
    def ledger(self) -> str:
        return storage.join(self.root, "ledger")

    @property
    def store(self) -> Store:
        return Store(storage.join(self.root, "tables"))

    def dataset(self, recipe: str) -> str:
        return storage.join(self.root, "datasets", recipe)

    def policy(self, recipe: str, objective: str) -> str:
        return storage.join(self.root, "policies", recipe, objective)

    def report(self, recipe: str) -> str:
        return storage.join(self.root, "reports", f"{recipe}.html")

    def calls(self, recipe: str) -> str:
        return storage.join(self.root, "runs", f"{recipe}.json")

    def shards(self) -> dict[str, str]:
        """Source file by shard."""
        return self.scan()[0]

    def refused(self) -> list[str]:
        """What is wrong with the files in the inbox that are no shards, a sentence each."""
        return self.scan()[1]

    def source(self, shard: str) -> str:
        """The source file of a shard. Raises SourceError when the inbox has none."""
        path = self._found.get(shard)
        if path is None or not storage.exists(path):
            self._found.update(self.shards())  # listed once for all shards, not once for each
            path = self._found.get(shard)
        if path is None or not storage.exists(path):
            raise SourceError(f"no file for shard {shard} in {self.inbox}", fix="pugc ingest FILE")
        return path

    def source_hashes(self) -> dict[str, str]:
        """Content hash of the source file by shard, sorted; of a file that did not change, as remembered. The hash of
        a file that cannot be read is empty."""

        def read(name: str) -> str | None:
            try:
                return file_hash(storage.join(self.inbox, name))
            except (OSError, StorageError):
                return None

        hashes = cached(self.inbox, storage.join(self.root, "runs", ".sources"), read)
        return {shard: hashes.get(path.rsplit("/", 1)[-1], "") for shard, path in sorted(self.shards().items())}

    def scan(self) -> tuple[dict[str, str], list[str]]:
        """Source file by shard, and what is wrong with the files that are none, a sentence each."""
        found: dict[str, str] = {}
        refused = []
        for name in storage.names(self.inbox):
            try:
                shard = sources.shard_name(name)
            except SourceError as err:
                refused.append(f"{name} in the inbox is passed over: {err.problem}; {err.fix}")
                continue
            if shard in found:
                other = found[shard].rsplit("/", 1)[-1]
                refused.append(f"{name} in the inbox is passed over: {other} is shard {shard} already; rename one")
            else:
                found[shard] = storage.join(self.inbox, name)
        for name, what in storage.irregulars(self.inbox).items():
            refused.append(f"{name} in the inbox is passed over: it is {what}; only ordinary files become shards")
        return found, refused
