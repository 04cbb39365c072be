"""A script without ComfyUI: workflow files through the command, one after the other."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any


def main(models: str, inputs: str, output: str, *files: str) -> dict[str, Any]:
    """Run files into folders of their names; return what each showed, by node id."""
    from multilingual_diffusion.__main__ import main as command

    shown: dict[str, Any] = {}
    for file in map(Path, files):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            code = command(
                ["run", str(file), "--json", "--models-dir", models, "--input-dir", inputs,
                 "--output", str(Path(output) / file.stem)]
            )  # fmt: skip
        assert code == 0, f"{file.name} ended with {code}"
        events = [json.loads(line) for line in told.getvalue().splitlines()]
        shown[file.stem] = {
            event["data"]["node"]: event["data"]["output"]
            for event in events
            if event["type"] == "executed"
        }
    return shown
