"""The safety room equals diffusers' checker and transformers' preprocessing to the last bit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    NonFiniteResult,
    PipelineError,
    UnknownName,
    UnsafeContent,
)
from multilingual_diffusion.pipeline_core.loading.schemas import parse_safety_config
from multilingual_diffusion.pipeline_core.safety import checker as checker_module
from multilingual_diffusion.pipeline_core.safety.checker import SafetyChecker, judge
from multilingual_diffusion.pipeline_core.safety.network import build_safety_network, rename_key
from multilingual_diffusion.pipeline_core.safety.policy import (
    apply_policy,
    check,
    resolve_policy,
)
from multilingual_diffusion.pipeline_core.safety.preprocess import Preprocessing
from multilingual_diffusion.pipeline_core.values import Images, Verdict
from PIL import Image
from tiny import safety_checker

SIDE = 32  # of the tiny tower
PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


# CompVis/stable-diffusion-safety-checker
PUBLISHED = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    },
}


def tiny_config() -> dict:
    return parse_safety_config(safety_checker().config.to_dict(), "tiny")


def published_state(module: torch.nn.Module, position_ids: bool = True) -> dict[str, torch.Tensor]:
    """Return a checker's tensors under the published names, position_ids as old files have them."""
    state = {}
    for key, value in module.state_dict().items():
        inner = key.removeprefix("vision_model.").removeprefix("vision_model.")
        state["vision_model.vision_model." + inner if key.startswith("vision") else key] = value
    if position_ids:
        state["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return state


def load(published: dict[str, torch.Tensor], config: dict):
    """Build on the meta device and assign, as the loading room does."""
    with torch.device("meta"):
        network = build_safety_network(config)
    renamed = {rename_key(key): value for key, value in published.items()}
    renamed.pop(None, None)
    network.load_state_dict(renamed, strict=True, assign=True)
    network.after_loading()
    return network


@pytest.fixture(scope="module")
def reference():
    return safety_checker()


@pytest.fixture(scope="module")
def network(reference):
    return load(published_state(reference), tiny_config())


def pictures(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 40, 56, generator=torch.Generator().manual_seed(seed))


# network


def test_embeddings_equal_the_reference(reference, network):
    values = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = reference.visual_projection(reference.vision_model(values)[1])
        assert torch.equal(network(values), theirs)


@pytest.mark.parametrize("position_ids", [True, False])
def test_published_keys_load_strictly_from_the_meta_device(reference, position_ids):
    network = load(published_state(reference, position_ids), tiny_config())
    assert not any(value.is_meta for value in (*network.parameters(), *network.buffers()))
    assert rename_key("vision_model.vision_model.embeddings.position_ids") is None
    assert rename_key("visual_projection.weight") == "visual_projection.weight"


def test_without_after_loading_the_meta_buffer_stays(reference):
    with torch.device("meta"):
        network = build_safety_network(tiny_config())
    state = {rename_key(key): value for key, value in published_state(reference, False).items()}
    network.load_state_dict(state, assign=True)
    assert any(buffer.is_meta for buffer in network.buffers())


def test_full_size_layout_has_the_published_tensors():
    with torch.device("meta"):
        network = build_safety_network(PUBLISHED)
    assert len(network.state_dict()) == 396
    assert sum(value.numel() for value in network.state_dict().values()) == 303_981_588


def test_config_keys_that_name_code_are_not_passed_on():
    vision = {**tiny_config()["vision_config"], "_attn_implementation_internal": "evil/hub"}
    with torch.device("meta"):
        network = build_safety_network(parse_safety_config({"vision_config": vision}, "here"))
    assert "evil" not in str(network.vision_model.config.to_dict())
    assert network.vision_model.config._attn_implementation != "evil/hub"


# preprocessing


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (17, 500), (641, 97)])
@pytest.mark.parametrize("style", ["new", "old", "small-crop"])
def test_preprocessing_equals_transformers(size, style):
    config = dict(PREPROCESSOR)
    if style == "old":
        config |= {"size": 224, "crop_size": 224}
    if style == "small-crop":  # crop wider than the picture: zeros around
        config |= {"size": {"shortest_edge": 33}, "crop_size": {"height": 64, "width": 51}}
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    theirs = reference_processor(config)(images=picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(Preprocessing.from_config(config)(picture), theirs)


def reference_processor(config: dict):
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil
    except ImportError:  # transformers 4.x
        from transformers import CLIPImageProcessor as processor
    return processor(**{key: config[key] for key in config if key != "feature_extractor_type"})


def test_the_default_is_the_published_preprocessing():
    assert Preprocessing() == Preprocessing.from_config(PREPROCESSOR)
    assert Preprocessing() == Preprocessing.from_config({})


@pytest.mark.parametrize(
    "change",
    [
        {"size": "224"},
        {"crop_size": {"height": 0}},
        {"image_mean": [1.0]},
        {"image_std": [0.5, 0, 0.5]},
        {"image_std": [0.5, -0.5, 0.5]},
        {"rescale_factor": 0},  # every picture would be the same
        {"resample": 9},
    ],
)
def test_bad_preprocessor_values_are_refused(change):
    with pytest.raises(FileRefused, match=f"preprocessor config: {next(iter(change))}"):
        Preprocessing.from_config({**PREPROCESSOR, **change})


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({}, "224 x 224"),
        ({"crop_size": {"height": SIDE, "width": 64}}, "32 x 64"),
        ({"do_center_crop": False}, "of any size"),
        ({"do_center_crop": False, "size": {"height": 64, "width": SIDE}}, "64 x 32"),
    ],
)
def test_pictures_of_another_size_than_the_networks_are_refused(network, change, given):
    preprocessing = Preprocessing.from_config({**PREPROCESSOR, **change})
    with pytest.raises(FileRefused, match=f"are {given}; .* takes 32 x 32"):
        SafetyChecker(network, preprocessing)


def test_without_a_preprocessor_pictures_come_at_the_networks_size(network):
    checker = SafetyChecker(network)
    assert checker.preprocessing(Image.new("RGB", (40, 56))).shape == (1, 3, SIDE, SIDE)
    exact = {"do_center_crop": False, "size": {"height": SIDE, "width": SIDE}}
    assert SafetyChecker(network, Preprocessing.from_config(exact)).score(Images(pictures(1)))


# verdicts


class PassThrough(torch.nn.Module):
    """A vision tower whose pooled output is its input, so a test chooses the embeddings."""

    def forward(self, values: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, values


def borderline(seed: int, special_hits: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return diffusers' checker and 200 embeddings whose scores lie within 0.02 of a threshold.

    Orthogonal concepts, so each cosine is chosen alone: row i is within 0.02 of the threshold of
    concept i, special concepts too; the others stay far below theirs.
    """
    generator = torch.Generator().manual_seed(seed)
    checker = safety_checker()
    axes = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0]
    checker.vision_model = PassThrough()
    checker.visual_projection = torch.nn.Identity()
    limits = 0.15 + 0.1 * torch.rand(20, generator=generator)
    checker.special_care_embeds = torch.nn.Parameter(axes[:3] * 2.0)
    checker.concept_embeds = torch.nn.Parameter(axes[3:20] * 0.7)
    checker.special_care_embeds_weights = torch.nn.Parameter(limits[:3])
    checker.concept_embeds_weights = torch.nn.Parameter(limits[3:])
    cosines = limits[None].repeat(200, 1) - 0.1
    rows = torch.arange(200)
    near = 0.04 * torch.rand(200, 4, generator=generator) - 0.02
    cosines[rows, 3 + rows % 17] = limits[3 + rows % 17] + near[:, 3]
    if special_hits:
        for column in range(3):
            cosines[:, column] = limits[column] + near[:, column]
    rest = (1.0 - cosines.square().sum(1, keepdim=True)).sqrt()
    embeddings = (cosines @ axes[:20] + rest * axes[20]) * 3.0
    return checker, embeddings


def reference_scores(checker: torch.nn.Module, embeddings: torch.Tensor):
    """Run diffusers' own forward and read its local score tables on the way out."""
    kept = {}

    def watch(frame, event, argument):
        if event == "return" and frame.f_code.co_name == "forward" and "result" in frame.f_locals:
            kept["result"] = frame.f_locals["result"]

    sys.setprofile(watch)
    try:
        _, flags = checker(embeddings, torch.zeros(len(embeddings), 3, 2, 2))
    finally:
        sys.setprofile(None)
    return kept["result"], flags


@pytest.mark.parametrize("special_hits", [False, True], ids=["ordinary", "special-care"])
def test_decisions_and_scores_equal_diffusers_near_every_threshold(special_hits):
    checker, embeddings = borderline(7 + special_hits, special_hits)
    theirs, flags = reference_scores(checker, embeddings)
    ours = judge(embeddings, checker)
    assert [verdict.flagged for verdict in ours] == flags
    assert 40 < sum(flags) < 160  # both classes
    for verdict, row in zip(ours, theirs, strict=True):
        assert list(np.float32(verdict.concept_scores)) == list(row["concept_scores"].values())
        assert list(np.float32(verdict.special_scores)) == list(row["special_scores"].values())
    if special_hits:
        assert sum(verdict.special_scores[0] > 0 for verdict in ours) > 40


def test_the_comparison_sees_a_missing_special_care_adjustment(monkeypatch):
    checker, embeddings = borderline(8, True)
    _, flags = reference_scores(checker, embeddings)
    monkeypatch.setattr(checker_module, "SPECIAL_CARE_ADJUSTMENT", 0.0)
    assert [verdict.flagged for verdict in judge(embeddings, checker)] != flags


def test_the_adjustment_carries_into_later_special_concepts():
    checker, embeddings = borderline(9, True)
    plain = judge(embeddings, checker)
    second_alone = [
        verdict.special_scores[1] for verdict in plain if verdict.special_scores[0] <= 0
    ]
    assert len(plain) > len(second_alone) > 0
    strict = judge(embeddings, checker, adjustment=0.05)
    for before, after in zip(plain, strict, strict=True):
        assert after.special_scores[0] == pytest.approx(before.special_scores[0] + 0.05, abs=2e-3)
    assert sum(v.flagged for v in strict) > sum(v.flagged for v in plain)


def test_whole_checker_equals_diffusers_from_pixels(reference, network):
    images = pictures(6)
    preprocessing = Preprocessing.from_config({"size": SIDE, "crop_size": SIDE})
    eight_bit = [Image.fromarray(row) for row in to_bytes(images)]
    processor = reference_processor({**PREPROCESSOR, "size": SIDE, "crop_size": SIDE})
    values = processor(images=eight_bit, return_tensors="pt")["pixel_values"]
    theirs, flags = reference_scores(reference, values)
    ours = SafetyChecker(network, preprocessing).score(Images(images))
    assert [verdict.flagged for verdict in ours] == flags
    for verdict, row in zip(ours, theirs, strict=True):
        assert list(np.float32(verdict.concept_scores)) == list(row["concept_scores"].values())


def to_bytes(images: torch.Tensor) -> np.ndarray:
    return (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def test_a_verdict_does_not_depend_on_the_batch(network):
    checker = SafetyChecker(network, Preprocessing.from_config({"size": SIDE, "crop_size": SIDE}))
    images = pictures(4)
    alone = [checker.score(Images(images[i : i + 1]))[0] for i in range(4)]
    assert list(checker.score(Images(images))) == alone


def test_an_embedding_of_nan_is_an_error_not_a_pass(network):
    with pytest.raises(NonFiniteResult, match="float32"):
        judge(torch.full((1, 16), float("nan")), network)


# policy

FLAGGED = (Verdict(False), Verdict(True, (0.1,)), Verdict(False))


@pytest.mark.parametrize("policy", ["black", "blur", "pass", "auto", "off"])
def test_policies_touch_flagged_images_only_and_never_the_input(policy):
    pixels = pictures(3)
    before = pixels.clone()
    checked = apply_policy(Images(pixels, ("told",)), FLAGGED, policy)
    assert torch.equal(pixels, before)
    assert torch.equal(checked.pixels[[0, 2]], before[[0, 2]])
    assert checked.verdicts == FLAGGED and checked.warnings[0] == "told"
    if policy in ("black", "auto"):
        assert checked.policy == "black" and not checked.pixels[1].any()
    elif policy == "blur":
        assert detail(checked.pixels[1]) < 0.05 * detail(before[1])
        assert checked.pixels[1].mean() == pytest.approx(before[1].mean().item(), abs=0.02)
    else:
        assert torch.equal(checked.pixels, before)
    told = any("image 2 of 3" in text for text in checked.warnings)
    assert told == (policy in ("black", "blur", "auto"))


def detail(image: torch.Tensor) -> torch.Tensor:
    return (image[:, :, 1:] - image[:, :, :-1]).abs().mean()


def test_block_names_the_images():
    with pytest.raises(UnsafeContent, match="images 2, 3 of 3"):
        apply_policy(Images(pictures(3)), (Verdict(False), Verdict(True), Verdict(True)), "block")


@pytest.mark.parametrize("policy", ["block", "black", "blur", "pass"])
def test_asked_for_and_not_there_fails(policy):
    with pytest.raises(PipelineError, match="needs a safety checker"):
        check(Images(pictures()), None, policy)


def test_auto_without_a_checker_is_off_and_says_so():
    checked = check(Images(pictures()), None, "auto", metadata={"model": "m9"})
    assert checked.policy == "off" and "not checked" in checked.warnings[0]
    assert checked.metadata == {"model": "m9", "safety": {"policy": "off"}}
    assert check(Images(pictures()), None, "off").warnings == ()


def test_off_runs_no_checker(network):
    class Exploding(SafetyChecker):
        def score(self, images, *, adjustment=0.0):
            raise AssertionError("the checker ran")

    checked = check(Images(pictures()), Exploding(network), "off")
    assert [verdict.concept_scores for verdict in checked.verdicts] == [(), (), ()]


def test_check_scores_and_records(network):
    checker = SafetyChecker(network, Preprocessing.from_config({"size": SIDE, "crop_size": SIDE}))
    checked = check(Images(pictures()), checker, "pass", adjustment=0.5)
    assert checked.metadata["safety"]["flagged"] == [v.flagged for v in checked.verdicts]
    assert checked.metadata["safety"]["adjustment"] == 0.5
    assert len(checked.verdicts[0].concept_scores) == 17


def test_unknown_policy_and_broken_images_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'black'"):
        resolve_policy("blac", has_checker=True)
    with pytest.raises(InvalidRequest, match="1 verdicts for 3"):
        apply_policy(Images(pictures()), (Verdict(False),), "pass")
    with pytest.raises(NonFiniteResult):
        check(Images(torch.full((1, 3, 8, 8), float("nan"))), None, "off")
