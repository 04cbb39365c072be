"""Measure dual conditioning: does a trigger word act on the CLIP side while the prompt is Thai?

The word is that of a LoRA of the community model (`nano.trigger`); the prompts leave open what the
word decides, the ground.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..assemble import load_pipeline
from ..graft.dual import join_conditioning, make_dual_unet
from ..graft.loras import graft_denoiser
from ..graft.recipe import GraftRecipe
from ..pipeline import TextToImagePipeline
from ..sampling import UNetDenoiser
from ..text.encoder import TextEncoder
from ..values import Conditioning
from .evaluation import PictureSettings, picture_batches, read_batch
from .grafting import PARTS, with_unet
from .nano.trigger import TRIGGER, is_called, trigger_prompt
from .world.obedience import Rate, Tally

RECIPE = GraftRecipe("replace-attn2")


class DualTextEncoder(TextEncoder):
    """A multilingual encoder that joins its states with those of fixed words on CLIP's side.

    Prompts get the words, empty prompts (the usual negative ones) CLIP's empty prompt.
    """

    def __init__(self, multilingual: TextEncoder, clip: TextEncoder, words: str) -> None:
        super().__init__(
            multilingual.network,
            multilingual.tokenizer,
            family=multilingual.family,
            context_length=multilingual.context_length,
            single_pass_length=multilingual.single_pass_length,
            languages=multilingual.languages,
        )
        self.clip, self.words = clip, words

    def encode(self, prompts: Sequence[str], **options: Any) -> Conditioning:
        """Return joined states [B, T, 2 D]; options as in `TextEncoder.encode`."""
        own = super().encode(prompts, **options)
        clip = self.clip.encode([self.words if prompt else "" for prompt in prompts])
        joined = join_conditioning(own.embeddings, clip.embeddings)
        return dataclasses.replace(own, embeddings=joined)


@dataclass(frozen=True)
class DualMeasure:
    """One row: what drew the pictures, how they obey, and how many show what the word calls."""

    title: str
    tally: Tally
    triggered: Rate


@dataclass(frozen=True)
class DualSubjects:
    """The models, the LoRA of the community's, and the shares of CLIP's side to try."""

    community: str
    multilingual: str
    lora: str
    clip_weights: Sequence[float] = (0.2, 0.3, 0.5)


def measure_dual(
    subjects: DualSubjects,
    settings: PictureSettings,
    on_pictures: Callable[[int], object] | None = None,
) -> Iterator[DualMeasure]:
    """Yield the graft alone, then at each share the LoRA with its word, and either alone.

    Raises:
        InvalidRequest: the models are not of one family.
    """
    plain = load_pipeline(subjects.community, parts=PARTS)
    tuned = load_pipeline(subjects.community, parts=PARTS, loras=[(subjects.lora, 1.0)])
    lender = load_pipeline(subjects.multilingual, parts=PARTS)
    grafted = with_unet(lender, _graft(tuned, lender))
    yield _measured("graft with the LoRA, no CLIP side", grafted, settings, on_pictures)
    for weight in subjects.clip_weights:
        for title, community, words in (
            ("the LoRA and its word", tuned, TRIGGER),
            ("the word alone", plain, TRIGGER),
            ("the LoRA alone", tuned, ""),
        ):
            pipeline = _dual(community, lender, weight, words)
            yield _measured(f"dual {weight:g}, {title}", pipeline, settings, on_pictures)


def count_pictures(subjects: DualSubjects, settings: PictureSettings) -> int:
    """Return how many pictures `measure_dual` draws."""
    return (1 + 3 * len(subjects.clip_weights)) * settings.count * len(settings.languages)


def _graft(community: TextToImagePipeline, lender: TextToImagePipeline) -> UNetDenoiser:
    unets: list[Any] = [pipeline.parts.unet for pipeline in (community, lender)]
    return graft_denoiser(unets[0], unets[1].network, None, RECIPE)[0]


def _dual(
    community: TextToImagePipeline, lender: TextToImagePipeline, weight: float, words: str
) -> TextToImagePipeline:
    original: Any = community.parts.unet
    network = make_dual_unet(_graft(community, lender).network, original.network, weight)
    pipeline = with_unet(lender, UNetDenoiser(network))
    own, clip = lender.parts.text_encoder, community.parts.text_encoder
    assert own is not None and clip is not None  # PARTS names them
    pipeline.parts.text_encoder = DualTextEncoder(own, clip, words)
    return pipeline


def _measured(
    title: str,
    pipeline: TextToImagePipeline,
    settings: PictureSettings,
    on_pictures: Callable[[int], object] | None,
) -> DualMeasure:
    rng = random.Random(f"{settings.seed} dual")
    prompts = [
        trigger_prompt(tag, rng) for tag in settings.languages for _ in range(settings.count)
    ]
    tally, called = Tally({}), 0
    for batch, pictures in picture_batches(pipeline, prompts, settings):
        tally += read_batch(batch, pictures)
        called += sum(map(is_called, pictures))
        if on_pictures is not None:
            on_pictures(len(batch))
    return DualMeasure(title, tally, Rate(called, len(prompts)))
