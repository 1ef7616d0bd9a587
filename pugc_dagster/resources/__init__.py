"""What assets are given: where things lie, the ledger, and the engines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from pugc_core import progress
from pugc_core.engines import EngineHost
from pugc_core.ledger.store import Ledger
from pugc_core.tables.workspace import Workspace
from pugc_dagster.project import data_root


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """The root of inbox, ledger, tables and results: PUGC_DATA, or `data` in the project's folder."""

    root: str = ""

    def create_resource(self, context: dg.InitResourceContext) -> Workspace:
        return Workspace(self.root or data_root())


class LedgerResource(dg.ConfigurableResource[Ledger]):
    """The ledger, open for the length of a run."""

    workspace: dg.ResourceDependency[Workspace]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Ledger]:
        with Ledger(self.workspace.ledger) as ledger:
            yield ledger


class EnginesResource(dg.ConfigurableResource[EngineHost]):
    """One engine at a time, kept from stage to stage while the model stays the same, gone when the run ends."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[EngineHost]:
        with EngineHost(told(context.log.info if context.log else lambda line: None)) as host:
            yield host


def told(log_line: Callable[[str], object]) -> Callable[[str], None]:
    """What is said while a model is brought goes into the run's log, and to the terminal where a command runs."""

    def say(sentence: str) -> None:
        log_line(sentence)
        progress.say(sentence)

    return say
