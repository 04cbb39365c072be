"""What the network's output means: epsilon and v (Salimans & Ho, arXiv 2202.00512), as formulas.

`latents` are always the network's input: sqrt(alpha) x0 + sqrt(1 - alpha) noise, with
sigma = sqrt((1 - alpha) / alpha).
"""

from __future__ import annotations

import torch

from ..errors import NonFiniteResult
from ..models.specs import PredictionType


def to_epsilon(v: torch.Tensor, latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Turn a v prediction into the epsilon prediction that says the same."""
    scale = (1 + sigma**2) ** -0.5  # sqrt(alpha)
    return scale * v + sigma * scale * latents


def to_clean(
    output: torch.Tensor, latents: torch.Tensor, sigma: float, prediction_type: PredictionType
) -> torch.Tensor:
    """Return the estimate of the clean latents x0 that a prediction implies."""
    scale = (1 + sigma**2) ** -0.5
    if prediction_type == "v_prediction":
        return scale * latents - sigma * scale * output
    return latents / scale - sigma * output


class FiniteWatch:
    """Notice NaN and infinity: at once on the CPU, elsewhere at the end, so that nothing waits."""

    def __init__(self) -> None:
        self._finite: list[torch.Tensor] = []  # one flag for each output, on its device
        self._steps: list[int] = []

    def see(self, output: torch.Tensor, step: int) -> None:
        """Take the output of a step (from 0).

        Raises:
            NonFiniteResult: on the CPU, where the output is not finite.
        """
        self.note(output, step)
        if output.device.type == "cpu":
            self.check()

    def note(self, output: torch.Tensor, step: int) -> None:
        """Take the output of a step, to be looked at by `check`."""
        self._finite.append(torch.isfinite(output).all())
        self._steps.append(step)

    def check(self) -> None:
        """Look at every output taken since the last time.

        Raises:
            NonFiniteResult: naming the first step that went wrong.
        """
        flags = torch.stack(self._finite).tolist() if self._finite else []
        for step, finite in zip(self._steps, flags, strict=True):
            if not finite:
                raise NonFiniteResult(
                    f"the network returned NaN or infinity in step {step + 1}; run it in a wider "
                    "dtype (float32 or bfloat16), or check its weights"
                )
        self._finite.clear()
        self._steps.clear()
