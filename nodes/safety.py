"""Images to checked images: scores, and what is done about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from ..pipeline_core.errors import InvalidRequest
from ..pipeline_core.values import SafetyPolicy
from . import host
from .conversions import check_choice, log_warnings, to_comfy_image, to_images
from .sockets import SAFETY_CHECKER, SAFETY_RECORD, SocketPart

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.safety.checker import SafetyChecker

# `auto` would pass where there is no checker: here that is never silent.
POLICIES = [policy for policy in get_args(SafetyPolicy) if policy != "auto"]


class MultilingualSafetyCheck:
    """Check images with the model's safety checker, and hide or stop what it flags."""

    DISPLAY_NAME = "Multilingual Safety Check"
    CATEGORY = "multilingual/safety"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["NSFW", "filter", "censor", "blur"]
    RETURN_TYPES = ("IMAGE", "BOOLEAN", "FLOAT", "MASK", SAFETY_RECORD)
    RETURN_NAMES = ("images", "flagged", "scores", "mask", "safety_record")
    OUTPUT_IS_LIST = (False, True, True, False, False)
    OUTPUT_TOOLTIPS = (
        "The images after the policy acted.",
        "One an image: whether it was flagged.",
        "One an image: the highest of its scores; above 0 it is flagged. 0 where policy is off.",
        "White where an image was flagged, black where not.",
        "What was done, for the metadata of Multilingual Save Image.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "Images to check; they are not changed in place."}),
                "safety_checker": (SAFETY_CHECKER, {"tooltip": "From a loader of this pack."}),
                "policy": (
                    POLICIES,
                    {
                        "default": "black",
                        "tooltip": "For flagged images. block: stop the run; black, blur: hide "
                        "them; pass: only say so; off: do not check, which is written down.",
                    },
                ),
                "adjustment": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": -1.0,
                        "max": 1.0,
                        "step": 0.005,
                        "round": 0.001,
                        "tooltip": "Added to every score: above 0 is stricter.",
                    },
                ),
            }
        }

    def execute(
        self,
        images: torch.Tensor,
        safety_checker: SocketPart[SafetyChecker],
        policy: Any,
        adjustment: float,
    ) -> tuple[torch.Tensor, list[bool], list[float], torch.Tensor, dict[str, Any]]:
        import torch

        from ..pipeline_core.safety.policy import check

        check_choice("policy", policy, POLICIES)
        if not -1 <= adjustment <= 1:  # NaN too, under which no score could flag
            raise InvalidRequest(f"adjustment is {adjustment}; it must lie in -1..1")
        checker = None if policy == "off" else safety_checker.ready()
        checked = check(to_images(images), checker, policy, adjustment=adjustment)
        log_warnings(checked.warnings)
        flagged = [verdict.flagged for verdict in checked.verdicts]
        scores = [max(verdict.concept_scores, default=0.0) for verdict in checked.verdicts]
        mask = torch.tensor(flagged, dtype=torch.float32, device=host.intermediate_device())
        height, width = checked.pixels.shape[2:]
        return (
            to_comfy_image(checked.pixels),
            flagged,
            scores,
            mask[:, None, None].repeat(1, height, width),
            dict(checked.metadata["safety"]),
        )


NODES = [MultilingualSafetyCheck]
