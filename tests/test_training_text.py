"""The text stages: states of windows, claims as classes, the student's loss, LiT's frozen side."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.models.configs import XLMR_LARGE
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS
from multilingual_diffusion.pipeline_core.training.contrastive import contrastive_loss
from multilingual_diffusion.pipeline_core.training.distillation import student_loss
from multilingual_diffusion.pipeline_core.training.nano.claims import (
    SLOTS,
    ClaimReader,
    carriers,
    claim_classes,
)
from multilingual_diffusion.pipeline_core.training.nano.variation import describe, openings, vary
from multilingual_diffusion.pipeline_core.training.text_tower import (
    AltClipText,
    restore_pads,
    trim_pads,
)
from multilingual_diffusion.pipeline_core.training.world.captions import LANGUAGES, caption
from multilingual_diffusion.pipeline_core.training.world.grammar_files import load_grammar
from multilingual_diffusion.pipeline_core.training.world.scene import (
    ClaimedThing,
    Claims,
    random_scene,
)

CONFIG = {**XLMR_LARGE, **tiny.XLMR, "vocab_size": 50, "project_dim": tiny.WIDTH}


def tower() -> AltClipText:
    return tiny.widen(AltClipText(CONFIG))  # type: ignore[return-value]


def windows() -> torch.Tensor:
    ids = torch.ones(3, 77, dtype=torch.long)
    for row, length in zip(ids, (2, 9, 20), strict=True):
        row[:length] = torch.randint(4, 50, (length,), generator=torch.Generator().manual_seed(1))
        row[0], row[length - 1] = 0, 2
    return ids


def test_one_pad_stands_for_all() -> None:
    network, ids = tower(), windows()
    short = trim_pads(ids)
    assert short.shape == (3, 21)
    whole = network(ids)
    restored = restore_pads(network(short).states, 77)
    assert torch.allclose(restored, whole.states, atol=1e-5)
    assert torch.allclose(network(short).pooled, whole.pooled, atol=1e-5)
    assert not torch.allclose(whole.states[0, -1], whole.states[1, -1], atol=1e-2)


def test_the_tower_that_trains_is_the_encoder_that_runs() -> None:
    network, ids = tower(), windows()
    encoder = ENCODERS["altdiffusion-m18"].build({**CONFIG, "has_pre_transformation": True})
    state = network.state_dict()
    encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    states = encoder(ids, ids.ne(1))
    assert torch.allclose(states, network(ids).states, atol=1e-5)


def test_the_pooled_output_equals_diffusers() -> None:
    reference = tiny.roberta_series(m18=True, vocab_size=50)
    network = AltClipText(CONFIG)
    network.load_state_dict(reference.state_dict(), strict=False)
    ids = windows()
    output = reference(input_ids=ids, attention_mask=ids.ne(1).long())
    # diffusers' projection_state of the m18 kind is the conditioning of all tokens
    states = network.train(False)(ids).states
    assert torch.allclose(states, output.projection_state, atol=1e-5)


def test_classes_say_what_captions_claim() -> None:
    red_square = ClaimedThing("square", "red", None, "top")
    star = ClaimedThing("star", "blue", "small", None)
    claims = Claims((red_square, star), background="white", relation="above")
    row = dict(zip(SLOTS, claim_classes([claims])[0].tolist(), strict=True))
    named = {slot: SLOTS[slot][value - 1] for slot, value in row.items() if value}
    assert named == {
        "shape": "square",
        "colour": "red",
        "place": "top",
        "second shape": "star",
        "second colour": "blue",
        "second size": "small",
        "background": "white",
        "relation": "above",
    }
    assert claim_classes([Claims(())]).sum() == 0


def test_the_reader_of_claims_learns_and_is_wrong_before(tmp_path: Path) -> None:
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(64)]
    classes = claim_classes([caption(scene, "en", rng).claims for scene in scenes])
    torch.manual_seed(0)
    states = {name: torch.randn(64, 128) for name in ("start", "end", "pad")}
    reader = ClaimReader(128)
    assert reader.right(states, classes).float().mean() < 0.1
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-2)
    for _ in range(60):
        loss = reader.loss(states, classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert reader.right(states, classes).float().mean() > 0.95


def test_carriers_are_start_end_and_pad() -> None:
    states = torch.arange(2 * 5).float().reshape(2, 5, 1)
    picked = carriers(states, torch.tensor([3, 4]))
    assert picked["start"].flatten().tolist() == [0, 5]
    assert picked["end"].flatten().tolist() == [2, 8]
    assert picked["pad"].flatten().tolist() == [4, 9]


def test_a_student_equal_to_its_teacher_has_no_loss_and_the_mean_has_one() -> None:
    torch.manual_seed(0)
    pooled, pad = torch.randn(32, 8) * 3, torch.randn(32, 8)
    same = student_loss(pooled, pooled, {"pad": pad}, {"pad": pad})
    assert float(same["loss"]) == 0
    mean = student_loss(
        pooled, pooled.mean(0).expand(32, 8), {"pad": pad}, {"pad": pad.mean(0).expand(32, 8)}
    )
    assert float(mean["pooled"]) == pytest.approx(1.0, rel=1e-3)
    assert float(mean["states"]) == pytest.approx(1.0, rel=1e-3)


def test_contrast_equals_transformers() -> None:
    from transformers import CLIPConfig, CLIPModel

    side = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**side, "num_hidden_layers": 1, "vocab_size": 40, "projection_dim": 16},
        vision_config={**side, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).train(False).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, 3, 16, 16, generator=generator)
    ids = torch.randint(3, 40, (6, 7), generator=generator)
    output = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    scale = model.logit_scale.exp()
    mine = contrastive_loss(output.image_embeds, output.text_embeds, scale)
    assert torch.allclose(mine, output.loss, atol=1e-5)
    assert float(contrastive_loss(output.image_embeds, output.image_embeds, scale)) < float(mine)


def test_variations_keep_the_words_and_openings_come_from_training_templates() -> None:
    text = "red circle, blue background"
    seen = {vary(text, "en", random.Random(seed)) for seed in range(60)}
    assert any(item.lower().startswith("blue background, red circle") for item in seen)
    for item in seen:
        for part in ("red circle", "blue background"):
            assert part in item.lower()
    assert all(openings(language) is openings(language) for language in LANGUAGES)
    assert "a picture of " in openings("en")
    held_out = {
        wording[0]
        for template in load_grammar("it").templates
        if template.held_out
        for wording in template.wordings
        if isinstance(wording[0], str)
    }
    assert "disegno semplice, " in held_out
    assert not any(opening.startswith("disegno semplice") for opening in openings("it"))


def test_descriptions_are_varied_and_now_and_then_in_two_languages() -> None:
    rng = random.Random(7)
    scenes = [random_scene(rng) for _ in range(300)]
    said = [describe(scene, "ko", LANGUAGES, rng) for scene in scenes]
    mixed = [item for item in said if "+" in item.template]
    assert 0.02 < len(mixed) / len(said) < 0.2
    assert not any("+" in describe(scene, "ko", ("ko",), rng).template for scene in scenes)
    assert {item.language for item in said} > {"ko"}


def test_no_variation_is_a_phrasing_that_was_held_out() -> None:
    """Korean says "thing, background" in training; its other order is measured, never taught."""

    def plain(text: str) -> str:
        return text.strip(".").lower()

    scene, draws = random_scene(random.Random(4), objects=1), [random.Random(i) for i in range(500)]
    held_out = {plain(caption(scene, "ko", rng, split="held-out").text) for rng in draws}
    assert held_out.isdisjoint(plain(describe(scene, "ko", ("ko",), rng).text) for rng in draws)
    said = [caption(scene, "ko", rng, detail="background") for rng in draws]
    turned = {plain(vary(item.text, "ko", rng)) for item, rng in zip(said, draws, strict=True)}
    assert turned & held_out  # what a free shuffle would have taught


def test_openings_never_lead_into_the_background() -> None:
    for language in LANGUAGES:
        assert not {"the background is ", "fond ", "le fond est ", "der hintergrund ist "} & {
            opening.lower() for opening in openings(language)
        }
