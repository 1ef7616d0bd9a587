"""Everything PUGC raises on purpose.

PugcError
├── RecipeError            a recipe, a prompt file or a name in them is wrong
├── SourceError            a file of posts cannot be read at all
├── StorageError           a table or ledger part cannot be read or written
├── Unforeseen             anything else that stopped one shard; its cause has the traceback
├── EngineError            a model could not be asked
│   ├── ModelNotFound      no such model, locally or on the hub
│   └── MissingDependency  an optional package is not installed
└── TrainingError          a policy could not be trained
"""

from __future__ import annotations


class PugcError(Exception):
    """What went wrong and where, and in `fix` how to mend it (a sentence or the exact command)."""

    def __init__(self, problem: str, *, fix: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}" if self.fix else self.problem

    @property
    def line(self) -> str:
        """Problem and fix on one line."""
        return " ".join((f"{self.problem}; fix: {self.fix}" if self.fix else self.problem).split())

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are lost by the default pickling, and engine processes send errors to their parent.
        return _rebuild, (type(self), self.problem, self.fix)


def _rebuild(cls: type[PugcError], problem: str, fix: str | None) -> PugcError:
    return cls(problem, fix=fix)


class RecipeError(PugcError):
    """A recipe, a prompt file or a name in them is wrong."""


class SourceError(PugcError):
    """A file of posts cannot be read at all."""


class CheckFailed(PugcError):
    """What has come so far is not good enough for a stage to spend anything on it."""


class StorageError(PugcError):
    """A table or a ledger part cannot be read or written."""


class Unforeseen(PugcError):
    """An error that nobody foresaw, in one shard. `__cause__` is the error itself."""


def as_pugc_error(err: Exception) -> PugcError:
    """The error as one of ours."""
    if isinstance(err, PugcError):
        return err
    if isinstance(err, OSError) and err.filename:
        return StorageError(f"{err.strerror or err}: {err.filename}", fix="check the file and its permissions")
    words = " ".join(str(err).split())[:500]
    wrapped = Unforeseen(
        f"{type(err).__name__}: {words}" if words else type(err).__name__,
        fix="look at what is odd in this shard; the run's log has the traceback, please report it",
    )
    wrapped.__cause__ = err
    return wrapped


class EngineError(PugcError):
    """A model could not be asked."""


class ModelNotFound(EngineError):
    """No such model, locally or on the hub."""


class MissingDependency(EngineError):
    """An optional package is not installed."""


class TrainingError(PugcError):
    """A policy could not be trained."""
