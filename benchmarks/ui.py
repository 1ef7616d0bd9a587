"""How long definitions take to load, and the web UI to draw a chain with many shards.

    .venv/bin/python benchmarks/orchestration.py --shards 2000 --once --keep /tmp/big
    .venv/bin/python benchmarks/ui.py /tmp/big

Needs chromium. The page counts as drawn when every asset of the group is visible.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.dev import dagster_dev, free_port

NAMES = ("ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset", "report")


def main() -> None:
    project = Path(sys.argv[1])
    load = "import time; t = time.perf_counter(); import pugc_dagster.definitions as d; d.defs().get_repository_def(); "
    env = os.environ | {"DAGSTER_HOME": str(project)}
    command = [sys.executable, "-c", f"{load}print(time.perf_counter() - t)"]
    times = [float(subprocess.check_output(command, cwd=project, env=env, text=True)) for _ in range(3)]
    print(f"definitions load in {statistics.median(times):.2f} s (median of 3: {', '.join(f'{t:.2f}' for t in times)})")
    from playwright.sync_api import sync_playwright

    port = free_port()
    with dagster_dev(project, port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 860})
        for what in ("first", "second", "third"):
            begun = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/locations/pugc/asset-groups/scripted/lineage")
            for name in NAMES:
                page.locator(f"text=/^{name}$/").first.wait_for()
            print(f"lineage page, {what} time: {time.perf_counter() - begun:.2f} s", flush=True)
            page.goto("about:blank")
        browser.close()


if __name__ == "__main__":
    main()
