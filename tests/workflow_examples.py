"""The example workflows: run without a server, kept in one form, and their thumbnails drawn.

`python tests/workflow_examples.py` brings every file to that form and draws every thumbnail anew:
after an example was saved in ComfyUI, and after the embedded model got new weights.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from multilingual_diffusion.__main__ import load_nodes
from multilingual_diffusion.nodes.host import HeadlessFolders, use_folders
from multilingual_diffusion.pipeline_core.workflow import (
    Executor,
    NodeDefinition,
    RunResult,
    Workflow,
    definitions_from_classes,
    read_workflow,
)
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
_SUBFOLDERS = {"output": "", "temp": "preview"}  # below the output folder, by kind of picture

# What the browser writes beside what it reads: names in the reader's language, widgets a second
# time, the last view, the browser's version
_NOISE = frozenset(
    ("localized_name", "widgets_values_named", "showAdvanced", "extra", "floatingLinks")
)
_THUMBNAIL_HEIGHT, _THUMBNAIL_BYTES = 320, 30_000
_SEAM = 4  # pixels between the pictures of a thumbnail


def all_examples() -> list[Path]:
    """List the workflow files."""
    return sorted(FOLDER.glob("*.json"))


def need_comfyui() -> list[str]:
    """List the names of the examples that run in ComfyUI only."""
    lines = (FOLDER / "needs_comfyui.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def headless_examples() -> list[Path]:
    """List the files that run without ComfyUI."""
    return [path for path in all_examples() if path.stem not in need_comfyui()]


class Runner:
    """Runs workflow files in one process, as the command does: what did not change runs once."""

    def __init__(self, output: Path) -> None:
        self._pack = load_nodes()
        self._executor = Executor(self._pack.classes, titles=self._pack.titles)
        self._folders = HeadlessFolders(input=FOLDER / "input", output=output)

    def definitions(self) -> Mapping[str, NodeDefinition]:
        """Return what conversion must know of the nodes."""
        with use_folders(self._folders):
            return definitions_from_classes(self._pack.classes, self._pack.titles)

    def read(self, path: Path) -> Workflow:
        """Read a workflow file or a picture that carries one."""
        return read_workflow(path, self.definitions())

    def run(self, path: Path) -> RunResult:
        """Run a workflow file or a picture that carries one."""
        workflow = self.read(path)
        with use_folders(self._folders), torch.inference_mode():
            return self._executor.run(workflow)

    def pictures(self, result: RunResult) -> list[Path]:
        """Return the pictures that a run wrote, node by node."""
        shown = [image for ui in result.ui.values() for image in ui.get("images", ())]
        return [
            self._folders.output
            / _SUBFOLDERS[image["type"]]
            / image["subfolder"]
            / image["filename"]
            for image in shown
        ]


def tidy(workflow: Mapping[str, Any]) -> str:
    """Return a workflow as these files hold it: a line for each node, link and group."""
    lines: list[str] = []
    for key, value in _without_noise(workflow).items():
        if isinstance(value, list) and value:
            items = ",\n".join("  " + _compact(item) for item in value)
            lines.append(f"{_compact(key)}: [\n{items}\n]")
        else:
            lines.append(f"{_compact(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _without_noise(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if isinstance(value, Mapping):
        return {
            key: _without_noise(item)
            for key, item in value.items()
            if key not in _NOISE and (item is not None or key == "link")
        }
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def make_thumbnail(pictures: Sequence[Path]) -> bytes:
    """Return a JPEG with the pictures side by side, or in two rows where they are many."""
    images = [Image.open(path).convert("RGB") for path in pictures]
    rows = 1 if len(images) < 4 else 2
    columns = -(-len(images) // rows)
    height = _THUMBNAIL_HEIGHT // rows
    scaled = [image.resize((image.width * height // image.height, height)) for image in images]
    width = max(image.width for image in scaled)
    sheet = Image.new("RGB", (columns * (width + _SEAM) - _SEAM, rows * (height + _SEAM) - _SEAM))
    for index, image in enumerate(scaled):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + _SEAM), row * (height + _SEAM)))
    for quality in range(90, 20, -10):
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= _THUMBNAIL_BYTES:
            return file.getvalue()
    raise ValueError(f"no thumbnail of {len(images)} pictures fits {_THUMBNAIL_BYTES} bytes")


def main() -> None:
    """Tidy all files, then draw what each saves, or shows where it saves nothing."""
    for path in all_examples():
        workflow = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(tidy(workflow), encoding="utf-8")
    for path in headless_examples():
        with tempfile.TemporaryDirectory() as output:
            runner = Runner(Path(output))
            pictures = runner.pictures(runner.run(path))
            saved = [picture for picture in pictures if picture.parent == Path(output)]
            thumbnail = make_thumbnail(saved or pictures)
        path.with_suffix(".jpg").write_bytes(thumbnail)


if __name__ == "__main__":
    main()
