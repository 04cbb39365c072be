"""Configs from strangers: what is passed on, what is refused, what is never read (R15)."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import FileRefused, PipelineError
from multilingual_diffusion.pipeline_core.loading import plans
from multilingual_diffusion.pipeline_core.loading.parts import (
    load_safety_network,
    load_text_network,
    load_unet_network,
    load_vae_network,
)
from multilingual_diffusion.pipeline_core.loading.schemas import (
    parse_safety_config,
    parse_scheduler_config,
    parse_text_config,
    parse_unet_config,
    parse_vae_config,
)
from multilingual_diffusion.pipeline_core.models.configs import (
    ALT_M18_TEXT,
    ALT_TEXT,
    CHINESE_CLIP_TEXT,
    KL_F8_VAE,
    PNDM_SCHEDULER,
    SD1_UNET,
    SD2_UNET,
)
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS

Parse = Callable[[dict[str, Any], str], dict[str, Any]]

SAFETY = {
    "projection_dim": 768,
    "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}
parse_alt_text: Parse = functools.partial(parse_text_config, family="altdiffusion")
parse_m18_text: Parse = functools.partial(parse_text_config, family="altdiffusion-m18")
parse_chinese_text: Parse = functools.partial(parse_text_config, family="chinese-clip")
VALID: list[tuple[Parse, dict[str, Any]]] = [
    (parse_unet_config, SD1_UNET),
    (parse_unet_config, SD2_UNET),
    (parse_vae_config, KL_F8_VAE),
    (parse_alt_text, ALT_TEXT),
    (parse_m18_text, ALT_M18_TEXT),
    (parse_chinese_text, CHINESE_CLIP_TEXT),
    (parse_safety_config, SAFETY),
    (parse_scheduler_config, PNDM_SCHEDULER),
]
REMOTE_CODE = {
    "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
    "trust_remote_code": True,
    "_attn_implementation": "evil/kernels",
    "_attn_implementation_internal": "evil/kernels",
    "attn_implementation": "evil/kernels",
    "custom_pipeline": "evil",
    "quantization_config": {"quant_method": "evil"},
    "experts_implementation": "evil/kernels",
}


@pytest.mark.parametrize(("parse", "config"), VALID)
def test_our_own_configs_pass_unchanged(parse: Parse, config: dict[str, Any]) -> None:
    assert parse(config, "here") == config


@pytest.mark.parametrize(("parse", "config"), VALID)
def test_unknown_keys_are_never_passed_on(parse: Parse, config: dict[str, Any]) -> None:
    assert parse({**REMOTE_CODE, **config}, "here") == config


def published(name: str) -> dict[str, Any]:
    path = tiny.SHARED / "configs" / name
    if not path.exists():
        pytest.skip("the published configs are not on this machine")
    return json.loads(path.read_text(encoding="utf-8"))


def test_published_configs_pass() -> None:
    unet = parse_unet_config(published("AltDiffusion.unet.config.json"), "m2")
    assert unet["sample_size"] == 64  # the file says 32
    assert {**SD1_UNET, **unet} == SD1_UNET
    unet = parse_unet_config(published("SD21base.unet.config.json"), "m18")
    assert {**SD2_UNET, **unet} == SD2_UNET
    text = parse_alt_text(published("AltDiffusion.text_encoder.config.json"), "m2")
    assert {**ALT_TEXT, **text} == ALT_TEXT
    safety = parse_safety_config(published("safety_checker.config.json"), "safety")
    assert safety["projection_dim"] == 768
    scheduler = published("AltDiffusion_and_m18.scheduler_config.json")
    assert parse_scheduler_config(scheduler, "scheduler") == scheduler


@pytest.mark.parametrize(
    ("version", "side", "expected"),
    [("0.8.0.dev0", 32, 64), ("0.6.0", 8, 64), ("0.8.0", 96, 96), ("0.9.0", 32, 32),
     ("0.42.1", 32, 32), (None, 32, 32), ("x", 32, 32), (7, 32, 32)],
)  # fmt: skip
def test_sample_size_of_early_files(version: object, side: int, expected: int) -> None:
    raw = {**SD1_UNET, "_diffusers_version": version, "sample_size": side}
    assert parse_unet_config(raw, "here")["sample_size"] == expected


def test_scaling_factor_default() -> None:
    raw = {key: value for key, value in KL_F8_VAE.items() if key != "scaling_factor"}
    assert parse_vae_config(raw, "here")["scaling_factor"] == 0.18215
    assert parse_vae_config({**raw, "scaling_factor": 0.2}, "here")["scaling_factor"] == 0.2


WRONG: list[tuple[Parse, dict[str, Any], dict[str, Any], str]] = [
    (parse_unet_config, SD1_UNET, {"in_channels": 9}, "in_channels is 9; it must be 4"),
    (parse_unet_config, SD1_UNET, {"layers_per_block": 10**9}, "a whole number 1..8"),
    (parse_unet_config, SD1_UNET, {"layers_per_block": True}, "a whole number 1..8"),
    (parse_unet_config, SD1_UNET, {"block_out_channels": [320] * 99}, "a list of 1..8"),
    (parse_unet_config, SD1_UNET, {"block_out_channels": [320, 640]}, "4 entries for 2 blocks"),
    (parse_unet_config, SD1_UNET, {"block_out_channels": [33, 640, 640, 640]}, "do not divide"),
    (parse_unet_config, SD1_UNET, {"down_block_types": ["os.system"] * 4}, "one of CrossAttn"),
    (parse_unet_config, SD1_UNET, {"class_embed_type": "timestep"}, "only None is supported"),
    (parse_unet_config, SD1_UNET, {"addition_embed_type": "text_time"}, "only None is supported"),
    (parse_unet_config, SD1_UNET, {"norm_eps": float("nan")}, "a number"),
    (parse_unet_config, SD1_UNET, {"cross_attention_dim": "768"}, "a whole number"),
    (parse_unet_config, {}, {}, "is missing"),
    (parse_vae_config, KL_F8_VAE, {"latent_channels": 16}, "it must be 4"),
    (parse_vae_config, KL_F8_VAE, {"shift_factor": 0.1}, "only None is supported"),
    (parse_vae_config, KL_F8_VAE, {"scaling_factor": 0}, "a number"),
    (parse_unet_config, SD1_UNET, {"attention_head_dim": 256, "block_out_channels": [128] * 4},
     "attention_head_dim 256 is more than the channels"),
    (parse_unet_config, SD2_UNET, {"block_out_channels": [32, 32, 32, 32], "attention_head_dim":
     [1, 1, 33, 1]}, "is more than the channels"),
    (parse_alt_text, ALT_TEXT, {"vocab_size": 2**40}, "a whole number"),
    (parse_alt_text, ALT_TEXT, {"num_attention_heads": 7}, "7 heads do not divide"),
    (parse_alt_text, ALT_TEXT, {"hidden_act": "evil"}, "one of gelu"),
    (parse_alt_text, ALT_TEXT, {"is_decoder": True}, "only False is supported"),
    (parse_alt_text, ALT_TEXT, {"pad_token_id": 5}, "XLM-R's tokenizer pads with 1"),
    (parse_m18_text, ALT_M18_TEXT, {"pad_token_id": 0}, "XLM-R's tokenizer pads with 1"),
    (parse_alt_text, ALT_TEXT, {"vocab_size": 1}, "pad_token_id is 1; the vocab_size is 1"),
    (parse_alt_text, ALT_TEXT, {"max_position_embeddings": 78}, "77 tokens needs 79"),
    (parse_chinese_text, CHINESE_CLIP_TEXT, {"pad_token_id": 21128}, "the vocab_size is 21128"),
    (parse_chinese_text, CHINESE_CLIP_TEXT, {"max_position_embeddings": 51}, "52 tokens needs 52"),
    (parse_safety_config, SAFETY, {"vision_config": [1]}, "it must be an object"),
    (parse_safety_config, SAFETY, {"vision_config": {"image_size": -1}}, "a whole number"),
    (parse_safety_config, SAFETY, {"vision_config": {"layer_norm_eps": "x"}}, "a number"),
    (parse_safety_config, SAFETY, {"vision_config": {"patch_size": 64, "image_size": 32}},
     "patch_size 64 is larger than image_size 32"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"prediction_type": "evil"}, "one of epsilon"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"variance_type": "learned_range"}, "one of fixed_s"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"trained_betas": [0.1]}, "1 trained_betas for 1000"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"beta_schedule": "sigmoid"}, "one of linear"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"beta_start": 0.0}, "a number 1e-09..0.9999"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"beta_end": 1.0}, "a number 1e-09..0.9999"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"beta_start": "0.1"}, "a number"),
    (parse_scheduler_config, PNDM_SCHEDULER, {"trained_betas": [2.0]}, "null or a list"),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "config", "change", "text"), WRONG)
def test_wrong_values_are_named(
    parse: Parse, config: dict[str, Any], change: dict[str, Any], text: str
) -> None:
    with pytest.raises(FileRefused, match=r"^here") as caught:
        parse({**config, **change}, "here")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(VALID), data=st.data())
def test_any_json_value_passes_or_is_refused(case: tuple[Parse, Any], data: st.DataObject) -> None:
    parse, config = case
    key = data.draw(st.sampled_from(sorted(config)))
    raw = {**config, key: data.draw(JSON)}
    try:
        assert set(parse(raw, "here")) <= set(config)
    except PipelineError as exc:
        assert str(exc).startswith("here")


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.Embedding(3, 4, padding_idx=7),  # asserts
        lambda: UNet2DConditionModel(**{**tiny.UNET_M9, "attention_head_dim": 256}),  # divides by 0
    ],
)
def test_sizes_that_no_rule_of_ours_covers_are_a_broken_file(build: Any) -> None:
    """The second net, under the rules of the schemas."""
    with pytest.raises(FileRefused, match="here: this config builds no network"):
        plans._build("here", build)


@pytest.mark.parametrize("positions", [79, 514])
def test_a_window_fits_the_fewest_positions_allowed(positions: int, tmp_path: Path) -> None:
    config = parse_alt_text({**layouts.text_config("m9"), "max_position_embeddings": positions}, "")
    network = ENCODERS["altdiffusion"].build(config)
    ids = torch.full((1, 77), 7)
    assert network(ids, torch.ones_like(ids)).shape == (1, 77, tiny.PROJECT)


def test_code_in_a_model_folder_is_never_imported(tmp_path: Path) -> None:
    """R15: hostile keys everywhere, and the code they name beside them."""
    folder = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    for path in folder.rglob("*.json"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        tiny.write_json(path, {**raw, **REMOTE_CODE})
        (path.parent / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    opened: list[str] | None = []
    sys.addaudithook(
        lambda event, args: None if opened is None else opened.append(f"{event} {args[:1]}")
    )
    found = detect(folder)
    for load in (load_text_network, load_unet_network, load_vae_network, load_safety_network):
        load(found, device="cpu")
    events, opened = opened, None
    assert any("model.safetensors" in event for event in events)  # the hook sees files
    assert not any("evil" in event for event in events)
    assert not any(event.startswith("socket.") for event in events)
