"""The graft's nodes without ComfyUI: graph to picture, reports, joined conditioning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_graphs as graphs
import pytest
import torch
from graft_models import unet_tensors, write_family, write_folder
from multilingual_diffusion.nodes.conversions import EMPTY_WINDOW
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.graft.network import graft_network
from multilingual_diffusion.pipeline_core.graft.recipe import GraftRecipe, Strengths


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_family(tmp_path_factory.mktemp("models"))
    write_folder(root / "other", "sd2", unet_tensors("sd2", "community"))
    return root


@pytest.fixture
def places(root: Path, tmp_path: Path) -> Iterator[None]:
    with graphs.folders(root, tmp_path):
        yield


def unet(name: str) -> Any:
    return graphs.call("MultilingualUNetLoader", model=name)[0]


def sample(part: Any, positive: Any, negative: Any) -> torch.Tensor:
    latent = graphs.call(
        "MultilingualSampler", unet=part, positive=positive, negative=negative,
        latent_image=graphs.empty_latent(), steps=2,
    )[0]  # fmt: skip
    return latent["samples"]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


def clip(tokens: int = 77, seed: int = 5, rows: int = 1) -> list[Any]:
    """Return what CLIP Text Encode gives."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(rows, tokens, 24, generator=generator), {"pooled_output": None}]]


def test_graph_of_a_graft(places: None) -> None:
    text_encoder = graphs.call("MultilingualTextEncoderLoader", model="multilingual")[0]
    community, multilingual, base = (unet(name) for name in ("community", "multilingual", "base"))
    grafted, report = graphs.call(
        "MultilingualGraft", unet=community, multilingual=multilingual, base=base,
        mode="delta-all", strength=0.8, up=0.5,
    )  # fmt: skip
    assert report.startswith("delta-all: ") and "down 0.8, mid 0.8, up 0.4" in report
    assert grafted.source == "community + multilingual"
    networks = [part.need().network for part in (community, multilingual, base)]
    recipe = GraftRecipe("delta-all", Strengths.of(0.8, up=0.5))
    wanted = graft_network(*networks, recipe).state_dict()
    for name, value in grafted.need().network.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    red, nothing = graphs.encode(text_encoder, "red"), graphs.encode(text_encoder, "")
    assert not torch.equal(sample(grafted, red, nothing), sample(community, red, nothing))
    for name, value in unet_tensors("sd1", "community").items():  # the parent stays
        assert torch.equal(community.need().network.state_dict()[name], value)


def test_report(places: None) -> None:
    result = graphs.call(
        "MultilingualGraftReport", multilingual=unet("multilingual"), base=unet("base")
    )
    assert "multilingual against base: " in result[0] and "delta-all takes over" in result[0]


def test_dual(places: None) -> None:
    text_encoder = graphs.call("MultilingualTextEncoderLoader", model="multilingual")[0]
    community = unet("community")
    grafted, _ = graphs.call("MultilingualGraft", unet=community, multilingual=unet("multilingual"))
    own = [graphs.encode(text_encoder, text) for text in (graphs.LONG_PROMPT, "")]
    joined = [
        graphs.call("MultilingualDualConditioning", conditioning=side, clip_conditioning=clip())[0]
        for side in own
    ]
    assert [side[0][0].shape[1] for side in joined] == [231, 77]  # three windows and one: filled up
    assert joined[1][0][1][EMPTY_WINDOW].shape == (77, 48)
    assert torch.equal(joined[0][0][1]["cross_attn_controlnet"], clip()[0][0])

    def dual(weight: float) -> Any:
        return graphs.call(
            "MultilingualDualUNet", unet=grafted, original=community, clip_weight=weight
        )[0]

    assert close(sample(dual(0.0), *joined), sample(grafted, *own))
    assert close(sample(dual(1.0), *joined), sample(community, clip(), clip()))
    assert not close(sample(dual(0.0), *joined), sample(dual(0.1), *joined))
    with pytest.raises(InvalidRequest, match=r"24 numbers a token and the UNet of .* takes 48"):
        sample(dual(0.5), *own)


def test_several_entries(places: None) -> None:
    sides = clip(seed=1) + clip(seed=2)
    sides[1][1]["area"] = (4, 4, 0, 0)
    joined = graphs.call(
        "MultilingualDualConditioning", conditioning=sides, clip_conditioning=clip()
    )[0]
    assert len(joined) == 2 and joined[1][1]["area"] == (4, 4, 0, 0)
    two = graphs.call(
        "MultilingualDualConditioning", conditioning=sides, clip_conditioning=clip() + clip(seed=9)
    )[0]
    assert not torch.equal(two[1][0], joined[1][0]) and torch.equal(two[0][0], joined[0][0])
    with pytest.raises(InvalidRequest, match="2 entries and CLIP's 3"):
        graphs.call(
            "MultilingualDualConditioning", conditioning=sides, clip_conditioning=clip() * 3
        )


def test_controlnets_read_clip_and_nothing_else_changes() -> None:
    side = clip(seed=1)
    before = side[0][1].copy()
    found = graphs.call(
        "MultilingualControlNetConditioning", conditioning=side, clip_conditioning=clip()
    )[0]
    assert torch.equal(found[0][0], side[0][0]) and side[0][1] == before
    assert torch.equal(found[0][1].pop("cross_attn_controlnet"), clip()[0][0])
    assert found[0][1] == before


def test_refusals(places: None) -> None:
    community, multilingual = unet("community"), unet("multilingual")
    with pytest.raises(InvalidRequest, match="numbers a token"):
        graphs.call("MultilingualGraft", unet=unet("other"), multilingual=multilingual)
    with pytest.raises(InvalidRequest, match="needs the base"):
        graphs.call(
            "MultilingualGraft", unet=community, multilingual=multilingual, mode="delta-attn2"
        )
    with pytest.raises(InvalidRequest, match="graft mode 'x' is unknown"):
        graphs.call("MultilingualGraft", unet=community, multilingual=multilingual, mode="x")
    v_type = graphs.call(
        "MultilingualUNetLoader", model="community", prediction_type="v_prediction"
    )[0]
    with pytest.raises(InvalidRequest, match="community predicts v_prediction and that of multi"):
        graphs.call("MultilingualGraft", unet=v_type, multilingual=multilingual)
