"""What pack checkers and the registry scanner look for, checked on all that ships."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
IGNORED = [
    line.rstrip("/")
    for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
TRIGGERS = [
    r"\.connect\s*\(", r"\.bind\s*\(", r"\.send(all)?\s*\(", r"\.recv\s*\(", r"socket\.socket",
    r"urlopen", r"urllib\.request", r"requests\.(get|post)", r"aiohttp\.ClientSession",
    r"os\.environ", r"getenv", r"subprocess", r"os\.system", r"Popen", r"\bcurl\b", r"\bwget\b",
    r"\bexec\s*\(", r"(?<!\.)\beval\s*\(", r"\.eval\s*\(", r"(?<!re\.)(?<!\w)compile\s*\(",
    r"__import__", r"importlib\.import_module", r"sys\.modules", r"\.read_bytes\s*\(",
    r"sqlite3", r"\.cuda\s*\(", r"\.to\(\"cuda", r"torch\.autocast\(", r"torch\.amp\.autocast",
    r"\bnn\.(Linear|Conv[123]d|ConvTranspose[12]d|LayerNorm|GroupNorm|Embedding)\s*\(",
    r"trust_remote_code=True",
]  # fmt: skip


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.decode().splitlines() if (ROOT / name).exists()]


def shipped() -> list[Path]:
    return [
        path
        for path in tracked()
        if not any(
            fnmatch.fnmatch(path.relative_to(ROOT).as_posix(), pattern)
            or path.relative_to(ROOT).as_posix().startswith(f"{pattern}/")
            for pattern in IGNORED
        )
    ]


def test_python_files_are_ascii() -> None:
    guilty = [
        path.name for path in tracked() if path.suffix == ".py" and not path.read_bytes().isascii()
    ]
    assert not guilty


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_no_scanner_trigger_ships(trigger: str) -> None:
    texts = [path for path in shipped() if path.suffix in {".py", ".js", ".json", ".md", ".toml"}]
    guilty = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in texts
        if (match := re.search(trigger, path.read_text(encoding="utf-8")))
    ]
    assert not guilty


def test_no_room_without_a_noun() -> None:
    names = {path.name for path in tracked()}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


def test_no_path_of_a_machine() -> None:
    texts = [
        path for path in tracked() if path.suffix in {".py", ".md", ".json", ".toml", ".txt", ""}
    ]
    for path in texts:
        if path.suffix != ".json" or path.stat().st_size < 1_000_000:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert str(Path.home()) + "/" not in text, path
            assert str(ROOT.parent) + "/" not in text, path


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings the TOML reader")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_all_packages_are_declared() -> None:
    declared = set(project()["tool"]["setuptools"]["packages"])
    folders = {
        path.parent.relative_to(ROOT)
        for folder in ("pipeline_core", "nodes")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    found = {".".join(["multilingual_diffusion", *folder.parts]) for folder in folders}
    assert declared == found | {"multilingual_diffusion"}


def test_requirements_repeat_the_project_less_torch() -> None:
    wanted = [line for line in project()["project"]["dependencies"] if not line.startswith("torch")]
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").split() == wanted
    assert all(">=" in line and "<" not in line and "==" not in line for line in wanted)


def test_import_is_light() -> None:
    code = (
        "import torch, time, sys; before = set(sys.modules); start = time.process_time();"
        "import multilingual_diffusion, multilingual_diffusion.pipeline_core;"
        "took = time.process_time() - start; new = set(sys.modules) - before;"
        "heavy = {'diffusers', 'transformers', 'sentencepiece', 'tokenizers', 'PIL'};"
        "print(took, sorted(heavy & new))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    assert all(run.strip().endswith("[]") for run in runs)
    assert min(float(run.split()[0]) for run in runs) <= 0.1
