"""The optimizers of the recipe: AdamW, or Muon for the matrices of small networks.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal by a
Newton-Schulz iteration. Small networks that see few samples learn about twice as fast with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed

if TYPE_CHECKING:
    from .loop import LoopOptions

OptimizerName = Literal["adamw", "muon"]

# Lookup tables, and the layers that read and write pixels, latents and vocabularies.
_NO_MATRIX = ("embedding", "conv_in", "conv_out", "quant_conv")


def make_optimizers(
    parameters: Mapping[str, torch.nn.Parameter], options: LoopOptions
) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or Muon for the matrices and AdamW for the rest."""
    use_muon = options.optimizer == "muon"
    matrices = [value for name, value in parameters.items() if use_muon and _is_matrix(name, value)]
    chosen = {id(value) for value in matrices}
    others = [value for value in parameters.values() if id(value) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(
            torch.optim.AdamW(
                others, options.learning_rate, options.betas, weight_decay=options.weight_decay
            )
        )
    if matrices:
        optimizers.append(Muon(matrices, options.matrix_learning_rate, options.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _is_matrix(name: str, value: torch.nn.Parameter) -> bool:
    return value.ndim >= 2 and not any(part in name for part in _NO_MATRIX)


class Muon(torch.optim.Optimizer):
    """Steps of orthogonal momentum; a convolution [O, I, h, w] counts as a matrix [O, I*h*w]."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": learning_rate, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; `closure` is not called: no stage needs one."""
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            raw = [self._direction(matrix, group["momentum"]) for matrix in matrices]
            for matrix, direction in zip(matrices, orthogonalize_all(raw), strict=True):
                scale = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction.view_as(matrix), alpha=-group["lr"] * scale)

    def _direction(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """Return the gradient with its momentum (Nesterov's way) as a matrix [O, I*h*w]."""
        gradient = parameter.grad
        assert gradient is not None  # `step` asked
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum).flatten(1)


def orthogonalize_all(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return every matrix made orthogonal; of several processes each does a part and shares it.

    What is shared is in the dtype that `orthogonalize` computes in: nothing is lost, and the
    processes, which hold the same gradients, go on with the same numbers as one alone.
    """
    if not (distributed.is_available() and distributed.is_initialized() and matrices):
        return [orthogonalize(matrix) for matrix in matrices]
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    by_cost = sorted(
        range(len(matrices)), key=lambda i: -matrices[i].numel() * min(matrices[i].shape)
    )
    mine = set(by_cost[rank::processes])
    parts = [
        orthogonalize(matrix) if index in mine else torch.zeros_like(matrix)
        for index, matrix in enumerate(matrices)
    ]
    together = torch.cat([part.flatten() for part in parts])
    together = together.to(_working_dtype(together))
    distributed.all_reduce(together)
    pieces = together.to(matrices[0].dtype).split([matrix.numel() for matrix in matrices])
    return [piece.view_as(matrix) for piece, matrix in zip(pieces, matrices, strict=True)]


def orthogonalize(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Return about the nearest matrix [N, M] whose singular values are all near 1.

    Quintic Newton-Schulz with the coefficients of the Muon post; they land in 0.7 .. 1.2.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).to(_working_dtype(x))
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def _working_dtype(matrix: torch.Tensor) -> torch.dtype:
    """Return bf16, exact enough (see the post), where it is fast; most CPUs take twice as long."""
    return torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
