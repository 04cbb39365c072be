"""Every model has its licence text, and writing one leaves it whole."""

from __future__ import annotations

import pytest
from multilingual_diffusion.pipeline_core.models.licences import licence_text, write_licence
from multilingual_diffusion.pipeline_core.models.specs import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_licence_and_notice_are_written(tmp_path, name):
    spec = MODELS[name]
    licence, notice = write_licence(spec, tmp_path)
    assert licence.read_text(encoding="utf-8") == licence_text(spec)
    assert "Permission is hereby granted" in notice.read_text(encoding="utf-8")
    assert sorted(tmp_path.iterdir()) == sorted([licence, notice])


def test_the_open_rail_text_is_whole():
    text = licence_text(MODELS["altdiffusion-m9"])
    assert "CreativeML Open RAIL-M" in text and "Attachment A" in text
    assert "You agree not to use the Model or Derivatives of the Model" in text
    assert len(text.encode()) == 14_385  # the published file, byte for byte
