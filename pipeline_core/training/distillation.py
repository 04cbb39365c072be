"""Stage `teacher-learning`: a multilingual student takes over an English teacher's text space.

AltCLIP (arXiv 2211.06679): mean squared error between pooled vectors of parallel sentences, the
teacher frozen. The m18 kind conditions on the penultimate states, so these are learned as well:
where words stand differs from language to language, but the start, the end and the pads stand for
the sentence in each of them, and most of a window is pads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def student_loss(
    teacher_pooled: torch.Tensor,
    student_pooled: torch.Tensor,
    taught: Mapping[str, torch.Tensor],
    learned: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Return the squared errors of pooled vectors [B, D] and of named states [B, D], and their sum.

    Each error is in units of the teacher's spread over the batch, so that none drowns another.
    """
    numbers = {"pooled": _relative_error(teacher_pooled, student_pooled)}
    states = [_relative_error(taught[name], learned[name]) for name in taught]
    numbers["states"] = torch.stack(states).mean() if states else torch.zeros(())
    return {**numbers, "loss": numbers["pooled"] + numbers["states"]}


def _relative_error(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    spread = teacher.var(0, unbiased=False).mean()
    return (student - teacher).square().mean() / (spread + 1e-6)
