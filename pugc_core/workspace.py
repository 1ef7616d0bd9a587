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

from dataclasses import dataclass

from pugc_core import storage
from pugc_core.errors import SourceError
from pugc_core.stages import sources
from pugc_core.tables import Store


@dataclass(frozen=True)
class Workspace:
    root: str

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
        """Source file by shard, for the files in the inbox whose names give a shard; others are passed over."""
        found = {}
        for name in storage.names(self.inbox):
            try:
                found[sources.shard_name(name)] = storage.join(self.inbox, name)
            except SourceError:
                continue
        return found

    def source(self, shard: str) -> str:
        """The source file of a shard. Raises SourceError when the inbox has none."""
        for suffix in sources.SUFFIXES:
            path = storage.join(self.inbox, f"{shard}{suffix}")
            if storage.exists(path):
                return path
        raise SourceError(f"no file for shard {shard} in {self.inbox}", fix="pugc ingest FILE")
