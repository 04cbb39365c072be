"""Areas, masks, strengths and timestep ranges: equal to ComfyUI's own, where it is at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMFYUI = os.environ.get("COMFYUI_DIR", "")


@pytest.mark.skipif(not COMFYUI, reason="set COMFYUI_DIR to a ComfyUI checkout that runs here")
def test_random_conditioning_means_the_same_in_comfyui() -> None:
    script = Path(__file__).with_name("comfyui_regions.py")
    done = subprocess.run(
        [sys.executable, str(script), COMFYUI, "500"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    compared, worst = done.stdout.split()[-2:]
    assert int(compared) == 500 and float(worst) <= 1e-5
