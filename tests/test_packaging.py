"""The wheel: it holds its data, and installed in an environment of its own it makes a picture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import layouts
import pytest

ROOT = Path(__file__).parent.parent
DATA = ("assets/demo_prompts.json", "text/languages.json", "models/licences")


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves folders behind that the next would reuse
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "output", "runs", "tests")
    shutil.copytree(ROOT, source, ignore=left_out)
    options = ("--no-deps", "--no-build-isolation", "--quiet", "-w", folder)
    call(sys.executable, "-m", "pip", "wheel", source, *options, cwd=folder)
    return next(folder.glob("*.whl"))


def test_package_data_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for data in DATA:
        assert any(f"pipeline_core/{data}" in name for name in names), data
    assert not any(name.split("/")[0] == "tests" for name in names)
    tracked = [path for path in ROOT.glob("pipeline_core/assets/nano/**/*") if path.is_file()]
    for path in tracked:
        assert f"multilingual_diffusion/{path.relative_to(ROOT).as_posix()}" in names


def test_installed_wheel_makes_a_picture(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    where = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    packages = Path(call(python, "-c", where, cwd=tmp_path).strip())
    options = ("--no-deps", "--quiet", "--target", packages)
    call(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    # torch and the others are lent by the environment that runs the tests; a path file lends
    # packages, not the editable link to the repository
    lent = sysconfig.get_paths()["purelib"]
    (packages / "lent.pth").write_text(lent + "\n", encoding="utf-8")
    located = call(
        python, "-c", "import multilingual_diffusion as m; print(m.__file__)", cwd=tmp_path
    )
    assert Path(located.strip()).is_relative_to(packages)
    model = layouts.write_diffusers_folder(tmp_path / "tiny", "m9", weights="safetensors")
    size = ("--steps", 2, "--width", 64, "--height", 64)
    command = (python, "-m", "multilingual_diffusion", "generate", "--model", model)
    output = call(*command, "--prompt", "a dog", *size, "--safety", "off", cwd=tmp_path)
    assert (tmp_path / output.strip()).is_file()


def test_the_comfyui_archive_runs_without_training(tmp_path: Path) -> None:
    archive = tmp_path / "multilingual_diffusion"
    left_out = shutil.ignore_patterns(".*", "build", "output", "runs", "tests", "training")
    shutil.copytree(ROOT, archive, ignore=left_out)
    command = (sys.executable, "-m", "multilingual_diffusion", "models", "list")
    listing = call(*command, "--models-dir", tmp_path, cwd=tmp_path)
    assert "altdiffusion-m18" in listing
    help_text = call(sys.executable, "-m", "multilingual_diffusion", "--help", cwd=tmp_path)
    assert "generate" in help_text and "train" not in help_text.split("command")[-1]
