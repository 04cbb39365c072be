"""The sampling loop: conditioning and options in, latents in VAE space out.

Latents are float32 throughout; the network always sees them scaled to variance 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidRequest
from ..models.specs import PredictionType
from ..values import Conditioning, Latents, Step, StepCallback
from .canvas import Canvas, check_inputs
from .guidance import Denoiser, Guidance
from .noise import Generators, draw_noise, latent_shape, make_generators
from .options import SamplingOptions, check_options
from .plan import Plan, make_plan
from .prediction import FiniteWatch, to_clean, to_epsilon


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    positive: Conditioning,
    negative: Conditioning | None,
    options: SamplingOptions,
    *,
    scheduler_config: Mapping[str, Any],
    prediction_type: PredictionType,
    scaling_factor: float,
    init: Latents | None = None,
    mask: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    on_step: StepCallback | None = None,
) -> Latents:
    """Run the steps and return `Latents` [B, 4, H/8, W/8] float32 in VAE space, one for each seed.

    `init` holds latents to start from, in VAE space, [1 or B, 4, h, w]. `mask` [1 or B, 1, h, w]
    is 1 where the picture is repainted; where it is 0 the init latents come out unchanged.
    `noise` [B, 4, h, w] replaces the start noise of the seeds. `generator` is a CPU stream that
    the `batch` and `flagai` conventions go on with instead of starting one from the first seed.
    `on_step` is called after each step with the estimate of the clean latents; whatever it raises
    stops the run at once.

    Raises:
        InvalidRequest: an option or a shape does not fit, before the network is called.
        NonFiniteResult: the network returned NaN or infinity; the text names the step.
    """
    check_options(options)
    shape = latent_shape(len(options.seeds), options.width, options.height)
    check_inputs(options, shape, init, mask, noise)
    if generator is not None and options.noise == "per-image":
        raise InvalidRequest("generator goes with noise 'batch' or 'flagai', not with 'per-image'")
    plan = make_plan(options, scheduler_config, prediction_type)
    guidance = Guidance(
        denoiser,
        positive,
        negative,
        scale=options.guidance_scale,
        count=len(options.seeds),
        batching=options.guidance_batching,
    )
    generators = generator or make_generators(options.seeds, options.noise)
    if noise is None:
        drawn = draw_noise(generators, shape)  # drawn even if unused: step noise must differ
        noise = drawn if options.add_noise else torch.zeros(shape)
    canvas = Canvas(
        plan, scaling_factor, noise.to(denoiser.device, torch.float32), init=init, mask=mask
    )

    latents = _run(plan, canvas, guidance, options, generators, prediction_type, on_step)
    return Latents(canvas.finish(latents))


def _run(
    plan: Plan,
    canvas: Canvas,
    guidance: Guidance,
    options: SamplingOptions,
    generators: Generators,
    prediction_type: PredictionType,
    on_step: StepCallback | None,
) -> torch.Tensor:
    """Make every call of the plan and return the latents as the scheduler left them."""
    scheduler, step, watch = plan.scheduler, 0, FiniteWatch()
    arguments = _step_arguments(plan, options, generators)
    latents, begins_step = canvas.start(), True
    timesteps = torch.tensor([call.timestep for call in plan.calls]).to(latents)
    for call, timestep in zip(plan.calls, timesteps, strict=True):
        if begins_step:
            latents = canvas.keep(latents, call.sigma)
        seen = scheduler.scale_model_input(latents, call.scheduler_timestep)
        output = guidance(seen, timestep)
        watch.see(output, step)
        clean = to_clean(output, seen, call.sigma, prediction_type)
        if plan.spec.needs_epsilon and prediction_type == "v_prediction":
            output = to_epsilon(output, seen, call.sigma)
        if options.noise == "flagai" and not arguments:
            draw_noise(generators, latents.shape)  # the original draws in each step, used or not
        latents = scheduler.step(
            output, call.scheduler_timestep, latents, **arguments, return_dict=False
        )[0]
        begins_step = call.ends_step
        if call.ends_step:
            if on_step is not None:
                on_step(Step(step, plan.steps, canvas.show(clean)))
            step += 1
    watch.check()
    return latents


def _step_arguments(plan: Plan, options: SamplingOptions, generators: Generators) -> dict[str, Any]:
    """Return what `scheduler.step` is told besides the tensors; empty where it draws no noise."""
    if plan.spec.takes_eta and options.eta:
        return {"eta": options.eta, "generator": generators}
    return {"generator": generators} if plan.spec.stochastic else {}
