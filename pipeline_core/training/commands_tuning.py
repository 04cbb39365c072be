"""`multilingual-diffusion train`: the recipes for any model on disk, `concept-alignment` and on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest
from .cpu import tuned_cpu

Subparsers = Any  # argparse names the type of its sub-parsers privately

UNET_RECIPES = {
    "concept-alignment": "teach a UNet a new encoder: cross-attention keys and values alone",
    "quality": "train all of a UNet on captioned pictures",
    "guidance": "the same with captions dropped, for classifier-free guidance",
    "dreambooth": "teach a UNet one subject from a few pictures",
    "lora": "train low-rank changes of the attention layers",
}


def add_recipes(recipes: Subparsers) -> None:
    """Add the recipes for any model on disk."""
    for name, text in UNET_RECIPES.items():
        parser = recipes.add_parser(name, help=text)
        parser.add_argument("--model", required=True, help="a name or a path")
        parser.add_argument("--data", type=Path, required=True, help="folder or tar of pictures")
        parser.add_argument(
            "--languages", nargs="+", metavar="TAG[=WEIGHT]", help="which captions, how often"
        )
        parser.add_argument("--weighting", choices=("uniform", "min-snr", "balanced"))
        parser.add_argument("--dropped", type=float, help="share of captions dropped")
        if name == "dreambooth":
            parser.add_argument("--instance-prompt", required=True)
            parser.add_argument("--class-data", type=Path, help="pictures of the class")
            parser.add_argument("--class-prompt", default="")
            parser.add_argument("--prior-weight", type=float, default=1.0)
        if name == "lora":
            parser.add_argument("--rank", type=int, default=4)
            parser.add_argument("--alpha", type=float, help="default: the rank")
        _add_loop(parser)
        parser.set_defaults(run=run_unet_recipe)
    _add_text_recipes(recipes)


def _add_text_recipes(recipes: Subparsers) -> None:
    learning = recipes.add_parser(
        "teacher-learning", help="a multilingual encoder learns a CLIP's text space"
    )
    learning.add_argument("--teacher", type=Path, required=True, help="folder of a CLIP text model")
    learning.add_argument("--data", type=Path, required=True, help="JSONL of parallel sentences")
    learning.set_defaults(run=run_teacher_learning)
    tuning = recipes.add_parser(
        "contrastive-tuning", help="then learns from pictures, the image tower frozen"
    )
    tuning.add_argument("--vision", type=Path, required=True, help="folder of a CLIP vision model")
    tuning.add_argument("--data", type=Path, required=True, help="folder or tar of pictures")
    tuning.add_argument(
        "--languages", nargs="+", metavar="TAG[=WEIGHT]", help="which captions, how often"
    )
    tuning.set_defaults(run=run_contrastive_tuning)
    for parser in (learning, tuning):
        parser.add_argument("--student", type=Path, required=True, help="text_encoder folder")
        parser.add_argument("--tokenizer", type=Path, required=True, help="sentencepiece.bpe.model")
        _add_loop(parser)


def _add_loop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and the result")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--accumulation", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--warmup-steps", type=int)
    parser.add_argument("--optimizer", choices=("adamw", "muon"))
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"))
    parser.add_argument("--seed", type=int)


_LOOP = (
    "steps",
    "batch_size",
    "accumulation",
    "learning_rate",
    "warmup_steps",
    "optimizer",
    "mixed_precision",
    "seed",
)


def _loop(args: argparse.Namespace, **defaults: Any) -> Any:
    from .loop import LoopOptions

    given = {name: value for name in _LOOP if (value := getattr(args, name)) is not None}
    return LoopOptions(**{**defaults, **given})


@tuned_cpu()
def run_unet_recipe(args: argparse.Namespace) -> int:
    """Run one of the UNet recipes and print the file it made."""
    from .tuning import ConceptAlignment, DreamBooth, Guidance, Lora, Quality, tune

    recipes: dict[str, Callable[..., Any]] = {
        "concept-alignment": ConceptAlignment,
        "quality": Quality,
        "guidance": Guidance,
        "dreambooth": DreamBooth,
        "lora": Lora,
    }
    own = ("instance_prompt", "class_data", "class_prompt", "prior_weight", "rank", "alpha")
    values: dict[str, Any] = {name: getattr(args, name) for name in own if hasattr(args, name)}
    for name in ("weighting", "dropped"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    if args.recipe == "dreambooth":
        loop = _loop(args, batch_size=4, learning_rate=5e-6, warmup_steps=0)
    else:
        loop = _loop(args)
    recipe = recipes[args.recipe](
        model=args.model,
        data=args.data,
        folder=args.folder,
        languages=read_weights(args.languages),
        loop=loop,
        **values,
    )
    print(tune(recipe))
    return 0


@tuned_cpu()
def run_teacher_learning(args: argparse.Namespace) -> int:
    """Run teacher learning and print the folder of the student."""
    from .teacher_learning import TeacherLearning, learn_from_teacher

    recipe = TeacherLearning(
        teacher=args.teacher,
        student=args.student,
        tokenizer=args.tokenizer,
        data=args.data,
        folder=args.folder,
        loop=_loop(args),
    )
    print(learn_from_teacher(recipe))
    return 0


@tuned_cpu()
def run_contrastive_tuning(args: argparse.Namespace) -> int:
    """Run contrastive tuning and print the folder of the student."""
    from .contrastive_tuning import ContrastiveTuning, tune_by_contrast

    recipe = ContrastiveTuning(
        vision=args.vision,
        student=args.student,
        tokenizer=args.tokenizer,
        data=args.data,
        folder=args.folder,
        languages=read_weights(args.languages),
        loop=_loop(args),
    )
    print(tune_by_contrast(recipe))
    return 0


def read_weights(items: list[str] | None) -> dict[str, float] | None:
    """Read `en zh=2` as {"en": 1.0, "zh": 2.0}.

    Raises:
        InvalidRequest: a weight is no number, or negative.
    """
    if items is None:
        return None
    weights: dict[str, float] = {}
    for item in items:
        tag, _, value = item.partition("=")
        try:
            weights[tag] = float(value or 1.0)
        except ValueError as exc:
            raise InvalidRequest(f"--languages {item!r}: {value!r} is no number") from exc
        if weights[tag] < 0:
            raise InvalidRequest(f"--languages {item!r}: a weight is 0 or more")
    return weights
