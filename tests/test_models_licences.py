"""Every model has its licence text or a notice that names its page; texts are written whole."""

from __future__ import annotations

import pytest
from multilingual_diffusion.pipeline_core.models.licences import write_licence
from multilingual_diffusion.pipeline_core.models.specs import MODELS

NAMES = {
    "CreativeML OpenRAIL-M": "LICENSE-CreativeML-OpenRAIL-M.txt",
    "Apache-2.0": "LICENSE-Apache-2.0.txt",
    "see the model's page": "NOTICE-licence.txt",
}


@pytest.mark.parametrize("name", MODELS)
def test_licence_and_notice_are_written(tmp_path, name):
    spec = MODELS[name]
    notice, licence = write_licence(spec, tmp_path)
    assert licence.name == NAMES[spec.licence] and licence.stat().st_size > 100
    assert "Permission is hereby granted" in notice.read_text(encoding="utf-8")
    assert sorted(tmp_path.iterdir()) == sorted([licence, notice])


def test_a_licence_that_is_not_known_is_not_made_up(tmp_path):
    spec = MODELS["chinese-stable-diffusion"]
    _, notice = write_licence(spec, tmp_path)
    page = "https://modelscope.cn/models/damo/multi-modal_chinese_stable_diffusion_v1.0"
    assert page in notice.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("LICENSE*"))


def test_the_open_rail_text_is_whole(tmp_path):
    _, licence = write_licence(MODELS["altdiffusion-m9"], tmp_path)
    text = licence.read_text(encoding="utf-8")
    assert "CreativeML Open RAIL-M" in text and "Attachment A" in text
    assert "You agree not to use the Model or Derivatives of the Model" in text
    assert len(text.encode()) == 14_385  # the published file, byte for byte
