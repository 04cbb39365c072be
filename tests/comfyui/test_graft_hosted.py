"""Grafts and dual conditioning as patches of the host's MODEL give what our own UNets give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyui import graphs
from comfyui.server import Server, executed_nodes

both = pytest.mark.parametrize("family", ["sd1", "sd2"])


@pytest.fixture(scope="module")
def measured(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("graft_script.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@both
def test_patched_weights_are_those_of_our_graft(measured: Any, family: str) -> None:
    assert len(measured["weights"][family]) == 10
    assert max(measured["weights"][family].values()) <= 1.0  # units in the last place


@both
def test_both_ends_are_exact(measured: Any, family: str) -> None:
    assert all(measured["ends"][family].values()), measured["ends"][family]


@both
def test_stock_sampler_on_patches_equals_ours(measured: Any, family: str) -> None:
    found = dict(measured["pictures"][family])
    assert found.pop("graft changes") > 1e-2
    assert max(found.values()) <= 1e-4, found


def test_a_lora_before_the_graft(measured: Any) -> None:
    found = dict(measured["loras"])
    assert "changes of 1 keys and values are left out" in found.pop("report")
    assert "LoRA" not in found.pop("silent")
    assert found.pop("original has the LoRA") <= 1.0
    assert found.pop("queries as in our own graft") <= 1e-6
    assert found.pop("trigger word changes") > 1e-3
    assert all(found.values()), found


def test_patches_hold_no_weights_and_work_in_parts(measured: Any) -> None:
    found = measured["memory"]
    assert found["nothing is copied"] and found["one model"]
    assert found["streamed"] and found["in part"] <= 1e-6
    assert found["unpatched"] > 1e-2


def test_the_strength_changes_without_loading_anew(comfyui: Server) -> None:
    """Tiny models share their weights, so a graft of one into the other is itself."""
    prompt = graphs.picture(seed=5)
    loader = prompt["model"]["inputs"]
    prompt |= {
        "lender": graphs.node("MultilingualModelLoader", **{**loader, "model": "group/bare"}),
        "native": graphs.node("MultilingualUNetToModel", unet=["model", 1]),
        "graft": graphs.node(
            "MultilingualGraftToModel",
            model=["native", 0], multilingual=["lender", 1], mode="replace-attn2", strength=0.5,
        ),
        "dual": graphs.node(
            "MultilingualDualModel", model=["graft", 0], original=["native", 0], clip_weight=0.5
        ),
        "joined": graphs.node(
            "MultilingualDualConditioning",
            conditioning=["positive", 0], clip_conditioning=["negative", 0],
        ),
        "joined negative": graphs.node(
            "MultilingualDualConditioning",
            conditioning=["negative", 0], clip_conditioning=["negative", 0],
        ),
        "sampler": graphs.node(
            "KSampler",
            model=["dual", 0], positive=["joined", 0], negative=["joined negative", 0],
            latent_image=["empty", 0], seed=5, steps=2, cfg=5.0, sampler_name="euler",
            scheduler="simple", denoise=1.0,
        ),
    }  # fmt: skip
    entry = comfyui.run(prompt)
    assert comfyui.pictures(entry)["save"]
    assert {"graft", "dual", "sampler"} <= executed_nodes(entry, prompt)
    prompt["graft"]["inputs"]["strength"] = 0.7
    again = executed_nodes(comfyui.run(prompt), prompt)
    assert again == {"graft", "dual", "sampler", "decode", "save"}


def test_a_controlnet_reads_clip(measured: Any) -> None:
    found = measured["controlnet"]
    assert found["reading CLIP changes"] > 1e-3
    assert found["where both are one, nothing"] <= 1e-5
    assert found["the UNet still reads its own"] > 1e-3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("family", "another family"),
        ("prediction", "predicts v_prediction"),
        ("base", "needs the base"),
        ("base's family", "numbers a token"),
        ("dual twice", "already"),
        ("dual's family", "another family"),
        ("not joined", "Multilingual Dual Conditioning on both sides"),
    ],
)
def test_refusals(measured: Any, case: str, words: str) -> None:
    assert words in measured["refusals"][case]
