"""Dagster's history of runs, in `.dagster`: opened with errors that say what to do, and rid of what was killed.

Nothing is made from it. Tables, ledger and policies are as they are without it, so a broken one is put aside.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterInvalidInvocationError
from sqlalchemy.exc import SQLAlchemyError

from pugc_core.errors import StorageError
from pugc_dagster.partitions import partitions_name

PROCESS_TAG = "pugc/process"
"""On runs of a command: the machine and the process that they run in."""
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@contextmanager
def opened(root: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of a project's folder. Raises StorageError where its history cannot be read or written."""
    folder = root / ".dagster"
    try:
        folder.mkdir(exist_ok=True)
        instance = dg.DagsterInstance.get()
    except (SQLAlchemyError, OSError) as err:
        raise _broken(folder, err) from err
    with instance:
        try:
            end_dead_runs(instance)
            instance.get_dynamic_partitions(partitions_name())
        except (SQLAlchemyError, OSError, DagsterInvalidInvocationError) as err:  # the last: tables are missing
            raise _broken(folder, err) from err
        try:
            yield instance
        except SQLAlchemyError as err:  # damage further in
            raise _broken(folder, err) from err


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Runs of commands that were killed would stay "started" for ever, and keep their place in the pool."""
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
        if host != socket.gethostname() or _process(int(process.split("@")[0])) == process:
            continue
        instance.report_run_failed(run, "the process of this run was killed; run it again, it goes on where it stopped")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def this_process() -> str:
    """The value of PROCESS_TAG."""
    return f"{socket.gethostname()}:{_process(os.getpid())}"


def cancel(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> None:
    """Show the last run with these tags, which was interrupted, as cancelled: Dagster calls every interrupt that it was
    not asked for a failure."""
    for run in instance.get_runs(filters=dg.RunsFilter(tags=dict(tags)), limit=1):
        if run.status is dg.DagsterRunStatus.SUCCESS:
            continue  # the interrupt came between two runs
        instance.report_run_canceled(run, "interrupted; the same command goes on where it stopped")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _process(pid: int) -> str | None:
    """A process as "pid@start", since pids come again; None when it is not there."""
    try:
        # Its start, in ticks since the machine's, is the 22nd field; the second may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{pid}@{fields[19]}"


def _broken(folder: Path, err: Exception) -> StorageError:
    words = str(getattr(err, "orig", None) or getattr(err, "strerror", None) or err).split("\n")[0]
    if isinstance(err, SQLAlchemyError) and "sqlite" not in str(err):
        return StorageError(f"Dagster's database: {words}", fix="check `storage` in dagster.yaml, and that it runs")
    if "locked" in words:
        fix = "another process is writing to it; try again"
    elif "full" in words or "No space" in words:
        fix = "free disk space and run the same command again; what is written so far is kept"
    elif isinstance(err, PermissionError) or "readonly" in words:
        fix = f"make it yours: sudo chown -R $USER {folder}"
    else:
        fix = (
            f"stop the web UI, then: mv {folder} {folder}.broken. The next command begins a new history. Only the old "
            "runs and their plots are lost; tables, ledger and policies stay, and nothing is asked again"
        )
    return StorageError(f"Dagster's history in {folder} cannot be used: {words}", fix=fix)
