"""A ComfyUI checkout that the environment names, and scripts in a process with its modules.

COMFYUI_DIR is the checkout, COMFYUI_PYTHON the interpreter that has what it needs. Nothing of
ComfyUI is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PACK = TESTS.parent

# A script defines `main(*arguments)`; what it returns goes back as JSON.
_SCRIPT = """
import json, os, runpy, sys
sys.path[0] = sys.argv[1]
if sys.argv[2] == "hosted":
    import comfy.cli_args
    comfy.cli_args.args.cpu = True
script, result, arguments = sys.argv[3], sys.argv[4], sys.argv[5:]
sys.argv = sys.argv[:1]
value = runpy.run_path(script, run_name="script")["main"](*arguments)
with open(result, "w", encoding="utf-8") as file:
    json.dump(value, file)
"""


@dataclass(frozen=True)
class Checkout:
    """A ComfyUI checkout and the interpreter that has what it needs."""

    folder: Path
    python: str

    def environment(self, packages: Path) -> dict[str, str]:
        """Return variables under which the pack imports by its name, on one thread, offline."""
        link = packages / "multilingual_diffusion"
        if not link.exists():
            packages.mkdir(parents=True, exist_ok=True)
            link.symlink_to(PACK, target_is_directory=True)
        path = os.pathsep.join([str(packages), str(TESTS)])
        return {
            **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8",
        }  # fmt: skip


def find_checkout() -> Checkout | None:
    """Return the checkout that the environment names; None where it names none."""
    folder = os.environ.get("COMFYUI_DIR", "")
    if not folder:
        return None
    if not (Path(folder) / "main.py").is_file():
        raise FileNotFoundError(f"COMFYUI_DIR is {folder!r}, which is no ComfyUI checkout")
    return Checkout(Path(folder).resolve(), os.environ.get("COMFYUI_PYTHON") or sys.executable)


def run_script(
    checkout: Checkout, folder: Path, script: Path | str, *arguments: Any, hosted: bool = True
) -> Any:
    """Run `main(*arguments)` of a script (a file, or its text) and return what it returns.

    It runs on COMFYUI_PYTHON in a process of its own. `hosted`: ComfyUI's modules are on the path
    and its device is the CPU; else the same interpreter and packages without ComfyUI. Arguments
    arrive as text; `multilingual_diffusion` and the tests' modules can be imported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:8]
    if isinstance(script, str):
        text, script = script, folder / f"script-{name}.py"
        script.write_text(text, encoding="utf-8")
    result = folder / f"result-{name}.json"
    done = subprocess.run(
        [checkout.python, "-c", _SCRIPT, str(checkout.folder if hosted else folder),
         "hosted" if hosted else "headless", str(script), str(result), *map(str, arguments)],
        cwd=folder, env=checkout.environment(folder / "packages"),
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{script} failed:\n{done.stderr[-6000:]}"
    return json.loads(result.read_text(encoding="utf-8"))
