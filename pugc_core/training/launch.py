"""The command that starts a training on one device or several: `accelerate launch`, with a configuration file.

On GPUs accelerate spreads the processes. For several processes on CPUs, which it leaves to MPI, torch's own launcher
starts them and accelerate finds itself in a group of them (gloo).
"""

from __future__ import annotations

import sys
from pathlib import Path

from pugc_core.errors import RecipeError
from pugc_core.training.config import Launch

SPEC = "PUGC_TRAINING"
"""The environment variable with what is to be trained, as JSON."""
_CONFIGS = Path(__file__).parent / "launch_configs"


def config_file(launch: Launch) -> Path:
    """The accelerate configuration that a recipe names. Raises RecipeError when there is none."""
    bundled = _CONFIGS / f"{launch.config}.yaml"
    if bundled.is_file():
        return bundled
    path = Path(launch.config).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in _CONFIGS.glob("*.yaml")))
        raise RecipeError(
            f"no launch configuration {launch.config!r}", fix=f"take one of {known}, or name an accelerate config file"
        )
    return path


def command(launch: Launch, module: list[str], *, gpus: bool) -> list[str]:
    """The words of the command that runs `python -m module...` as the recipe says."""
    file = config_file(launch)
    if gpus:
        flags = ["--config_file", str(file), "--num_processes", str(launch.processes), "--num_machines", "1"]
        return [sys.executable, "-m", "accelerate.commands.launch", *flags, "-m", *module]
    if launch.config != "ddp":
        raise RecipeError(
            f"training.launch.config {launch.config!r} needs GPUs, and there is none", fix='set config = "ddp"'
        )
    if launch.processes == 1:
        flags = ["--cpu", "--quiet", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
        return [sys.executable, "-m", "accelerate.commands.launch", *flags, "--dynamo_backend", "no", "-m", *module]
    flags = ["--standalone", "--nproc_per_node", str(launch.processes)]
    return [sys.executable, "-m", "torch.distributed.run", *flags, "-m", *module]
