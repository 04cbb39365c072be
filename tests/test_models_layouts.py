"""The layout writers themselves: diffusers and transformers read what they write, bit for bit."""

from __future__ import annotations

import layouts
import pytest
import tiny
import torch
from safetensors.torch import load_file

PIECES = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


def assert_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def diffusers_names(part: str, checkpoint: dict, config: dict) -> dict:
    from diffusers.loaders import single_file_utils as oracle

    convert = {
        "unet": oracle.convert_ldm_unet_checkpoint,
        "vae": oracle.convert_ldm_vae_checkpoint,
    }[part]
    return convert(dict(checkpoint), dict(config))


@pytest.mark.parametrize("model", ["m9", "m18"])
@pytest.mark.parametrize("part", PIECES)
def test_single_file_names_are_those_diffusers_converts(model, part):
    module = layouts.modules(model)[part]
    checkpoint = layouts.single_file_tensors(model)
    assert_equal(diffusers_names(part, checkpoint, module.config), module.state_dict())


def test_ema_names_are_those_diffusers_extracts():
    from diffusers.loaders import single_file_utils as oracle

    checkpoint = layouts.single_file_tensors("m9") | layouts.ema_tensors("m9")
    module = layouts.ema_unet("m9")
    found = oracle.convert_ldm_unet_checkpoint(checkpoint, dict(module.config), extract_ema=True)
    assert_equal(found, module.state_dict())


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize("sharded", [False, True])
def test_diffusers_loads_the_folder_parts(tmp_path, weights, sharded):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = layouts.write_diffusers_folder(
        tmp_path, "m18", weights=weights, sharded=sharded, old_vae_names=not sharded
    )
    safe = {"use_safetensors": weights == "safetensors"}
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **safe)
    assert_equal(unet.state_dict(), layouts.modules("m18")["unet"].state_dict())
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", **safe)
    assert_equal(vae.state_dict(), layouts.modules("m18")["vae"].state_dict())


def test_old_vae_names_hold_no_new_one(tmp_path):
    layouts.write_diffusers_folder(tmp_path, weights="safetensors", old_vae_names=True)
    names = set(load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors"))
    assert any("query" in name for name in names) and not any("to_q" in name for name in names)


def test_transformers_loads_the_chinese_encoder(tmp_path):
    from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel

    folder = layouts.write_modelscope_folder(tmp_path, weights="safetensors") / "text_encoder"
    config = ChineseCLIPTextConfig.from_pretrained(folder)
    module = ChineseCLIPTextModel(config, add_pooling_layer=False)
    # from_pretrained would set the padding row to zero
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    assert_equal(module.state_dict(), layouts.modules("chinese")["text_encoder"].state_dict())


def test_diffusers_loads_the_safety_checker(tmp_path):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    layouts.write_safety_checker(tmp_path, "safetensors")
    loaded = StableDiffusionSafetyChecker.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), tiny.safety_checker().state_dict())


def test_tokenizers_read_their_files(tmp_path):
    import sentencepiece
    from transformers import BertTokenizer

    layouts.write_sentencepiece(tmp_path / "xlmr")
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "xlmr/sentencepiece.bpe.model"))
    assert pieces.get_piece_size() < 299  # ids are piece + 1, vocab_size is 300
    layouts.write_wordpiece(tmp_path / "bert")
    assert BertTokenizer.from_pretrained(tmp_path / "bert")("a").input_ids[::2] == [101, 102]
