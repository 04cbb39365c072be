"""Noise levels: sigma tables and the timesteps that belong to them, without torch.

sigma = sqrt((1 - alpha) / alpha) with alpha the cumulated product of a timestep. Formulas: Karras
et al. arXiv 2206.00364 (eq. 5, rho 7), k-diffusion (MIT), CompVis latent-diffusion (MIT).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequest, UnknownName

Table = NDArray[np.float64]

# "model" is the scheduler's own spacing; the others are the host's names.
SCHEDULES = ("model", "karras", "normal", "simple", "ddim_uniform")


@dataclass(frozen=True)
class NoiseLevels:
    """n steps: `timesteps` [n] is what the network is told, `sigmas` [n + 1] falls, often to 0."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Steps between the levels."""
        return len(self.timesteps)

    def cut(self, end: int) -> NoiseLevels:
        """Return the first `end` steps, the last of which removes all noise that is left."""
        return NoiseLevels(self.timesteps[:end], (*self.sigmas[:end], 0.0))


def sigmas_from_alphas(alphas_cumprod: Table) -> Table:
    """Return the sigma of every training timestep, rising."""
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


def timesteps_of(sigmas: Table, table: Table) -> Table:
    """Return the timesteps of sigmas, linear in log sigma; beyond the table its ends."""
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(table), np.arange(len(table)))


def sigmas_of(timesteps: Table, table: Table) -> Table:
    """Return the sigmas of timesteps, linear in log sigma: the inverse of `timesteps_of`."""
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


def make_levels(schedule: str, steps: int, table: Table) -> NoiseLevels:
    """Return the levels of one of the host's schedules; `table` holds the training sigmas.

    `ddim_uniform` takes every (N // steps)-th timestep from 1 on, as LDM does, and so has more
    steps than asked where `steps` does not divide N.

    Raises:
        UnknownName: the schedule is not known, or is "model".
    """
    count = len(table)
    if schedule == "karras":
        ramp = np.linspace(0, 1, steps)
        high, low = table[-1] ** (1 / 7), table[0] ** (1 / 7)
        return levels_from_sigmas((high + ramp * (low - high)) ** 7, table)
    if schedule == "normal":
        timesteps = np.linspace(count - 1, 0, steps)
    elif schedule == "simple":
        timesteps = count - 1 - np.floor(np.arange(steps) * count / steps)
    elif schedule == "ddim_uniform":
        timesteps = np.arange(1, count, max(count // steps, 1), dtype=np.float64)[::-1]
    else:
        raise UnknownName("schedule", schedule, SCHEDULES[1:])
    return _levels(timesteps, sigmas_of(timesteps, table), 0.0)


def levels_from_sigmas(sigmas: Table, table: Table) -> NoiseLevels:
    """Return the levels of falling sigmas that are all above 0, ending in 0."""
    return _levels(timesteps_of(sigmas, table), sigmas, 0.0)


def explicit_levels(sigmas: tuple[float, ...], table: Table) -> NoiseLevels:
    """Return the levels of n + 1 falling sigmas as the user gave them."""
    starts = np.array(sigmas[:-1], dtype=np.float64)
    return _levels(timesteps_of(starts, table), starts, sigmas[-1])


def flagai_levels(steps: int, table: Table) -> NoiseLevels:
    """Return FlagAI's DDIM table: every (N // steps)-th timestep, plus 1.

    It runs more steps than asked where `steps` does not divide N (30 gives 31), and ends at the
    noise of timestep 0, not at 0.

    Raises:
        InvalidRequest: the table would reach past the last training timestep (steps=3 and others),
            where the original code fails.
    """
    count = len(table)
    timesteps = np.arange(0, count, count // steps)[::-1] + 1
    if timesteps[0] >= count:
        raise InvalidRequest(
            f"timestep_rule 'flagai' has no table for steps={steps}: it would start at timestep "
            f"{timesteps[0]} of {count}; take another number of steps, such as {steps + 1}"
        )
    return _levels(timesteps.astype(np.float64), table[timesteps], float(table[0]))


def _levels(timesteps: Table, sigmas: Table, last: float) -> NoiseLevels:
    return NoiseLevels(tuple(timesteps.tolist()), (*sigmas.tolist(), last))
