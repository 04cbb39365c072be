"""The safety gate: Images in, CheckedImages out; nothing else makes CheckedImages from Images.

A policy that asks for a check and has no checker is an error, never a silent pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter

from ..errors import InvalidRequest, NonFiniteResult, PipelineError, UnknownName, UnsafeContent
from ..values import CheckedImages, Images, SafetyPolicy, Verdict
from .checker import SafetyChecker

_BLUR_SHARE = 1 / 16  # of the shorter side, as the gaussian's radius: no face or limb survives


def check(
    images: Images,
    checker: SafetyChecker | None,
    policy: SafetyPolicy = "auto",
    *,
    adjustment: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
) -> CheckedImages:
    """Score the images and apply the policy; what was done is written into the metadata.

    `auto` is `black` where there is a checker, else `off` with a warning. Under `off` no checker
    runs: the verdicts are unflagged and hold no scores.

    Raises:
        PipelineError: the policy asks for a checker and there is none.
        NonFiniteResult: an image holds NaN or infinity.
        UnsafeContent: the policy is `block` and an image was flagged.
    """
    if not torch.isfinite(images.pixels).all():
        raise NonFiniteResult("an image holds NaN or infinity; it is no picture")
    applied = resolve_policy(policy, has_checker=checker is not None)
    warnings = images.warnings
    if policy == "auto" and checker is None:
        warnings += ("this model has no safety checker; images are not checked (safety: off)",)
    if applied == "off" or checker is None:
        verdicts = (Verdict(flagged=False),) * images.pixels.shape[0]
    else:
        verdicts = checker.score(images, adjustment=adjustment)
    return apply_policy(
        Images(images.pixels, warnings),
        verdicts,
        applied,
        metadata={**(metadata or {}), "safety": _record(applied, verdicts, adjustment)},
    )


def resolve_policy(policy: SafetyPolicy, *, has_checker: bool) -> SafetyPolicy:
    """Return the policy that will really apply; call it before anything expensive.

    Raises:
        UnknownName: no such policy.
        PipelineError: the policy asks for a checker and there is none.
    """
    if policy not in get_args(SafetyPolicy):
        raise UnknownName("safety policy", policy, get_args(SafetyPolicy))
    if policy == "auto":
        return "black" if has_checker else "off"
    if policy != "off" and not has_checker:
        raise PipelineError(
            f"safety policy {policy!r} needs a safety checker and none is loaded; "
            "load one, or choose 'off' to go without"
        )
    return policy


def apply_policy(
    images: Images,
    verdicts: tuple[Verdict, ...],
    policy: SafetyPolicy,
    metadata: Mapping[str, Any] | None = None,
) -> CheckedImages:
    """Do to the flagged images what the policy says (`auto`: black); the input is never changed.

    Raises:
        UnsafeContent: the policy is `block` and an image was flagged.
    """
    policy = resolve_policy(policy, has_checker=True)
    if len(verdicts) != images.pixels.shape[0]:
        raise InvalidRequest(f"{len(verdicts)} verdicts for {images.pixels.shape[0]} images")
    flagged = [index for index, verdict in enumerate(verdicts) if verdict.flagged]
    warnings, pixels = images.warnings, images.pixels
    if flagged and policy == "block":
        raise UnsafeContent(f"the safety checker flagged {_name(flagged, len(verdicts))}")
    if flagged and policy in ("black", "blur"):
        pixels = pixels.clone()
        for index in flagged:
            pixels[index] = 0.0 if policy == "black" else _blurred(pixels[index])
        done = "blacked out" if policy == "black" else "blurred"
        warnings += (f"the safety checker flagged {_name(flagged, len(verdicts))}: {done}",)
    return CheckedImages(pixels, verdicts, policy, dict(metadata or {}), warnings)


def _name(flagged: list[int], count: int) -> str:
    numbers = ", ".join(str(index + 1) for index in flagged)
    return f"image {numbers} of {count}" if len(flagged) == 1 else f"images {numbers} of {count}"


def _record(
    policy: SafetyPolicy, verdicts: tuple[Verdict, ...], adjustment: float
) -> dict[str, Any]:
    if policy == "off":
        return {"policy": policy}
    flagged = [verdict.flagged for verdict in verdicts]
    return {"policy": policy, "adjustment": adjustment, "flagged": flagged}


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Return [3, H, W] under a strong gaussian."""
    array = (pixels.permute(1, 2, 0).numpy() * 255.0).round().clip(0, 255).astype(np.uint8)
    radius = max(2.0, min(array.shape[:2]) * _BLUR_SHARE)
    soft = Image.fromarray(array).filter(ImageFilter.GaussianBlur(radius))
    return torch.from_numpy(np.array(soft)).permute(2, 0, 1).float() / 255.0
