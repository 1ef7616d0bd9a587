"""`python -m pugc_dagster.runs.piped`: a training that tells its progress to the run of Dagster that started it.

Each step is a line in the run's log, and a message with the figures. Importing this imports no dagster.
"""

import os
import sys
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

from pugc_core.training.__main__ import main


def tell(context: PipesContext, progress: dict[str, Any]) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.items() if name not in ("step", "total"))
    context.log.info(f"step {progress['step']} of {progress['total']}  on training pairs: {figures}")
    context.report_custom_message(progress)


if __name__ == "__main__":
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        sys.exit(main(sys.argv[1:]))
    with open_dagster_pipes() as context:
        code = main(sys.argv[1:], lambda progress: tell(context, progress))
    sys.exit(code)
