"""Every bad option is one line, raised before a network or a file is touched."""

from __future__ import annotations

import importlib.util
import math

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import (
    InvalidRequest,
    MissingDependency,
    UnknownName,
)
from multilingual_diffusion.pipeline_core.models.specs import find_spec
from multilingual_diffusion.pipeline_core.sampling import (
    SAMPLERS,
    SamplingOptions,
    check_options,
    make_noise_scheduler,
)
from multilingual_diffusion.pipeline_core.values import Conditioning, ImageRequest, Latents
from sampling_cases import embeddings, init_latents, run, scheduler_files, small

WRONG = [
    ({"sampler": "dimm"}, "did you mean 'ddim'"),
    ({"sampler": None}, "sampler None is unknown"),
    ({"schedule": "karas"}, "did you mean 'karras'"),
    ({"noise": "gpu"}, "noise 'gpu' is unknown"),
    ({"timestep_rule": "ldm"}, "timestep_rule 'ldm' is unknown"),
    ({"guidance_batching": "both"}, "guidance_batching 'both' is unknown"),
    ({"steps": 0}, "steps is 0"),
    ({"steps": 1}, "takes 2..999"),
    ({"steps": 1000}, "takes 2..999"),
    ({"steps": 1001}, "must be a whole number 1..1000"),
    ({"steps": 2.0}, "steps is 2.0"),
    ({"steps": True}, "steps is True"),
    ({"steps": "20"}, "steps is '20'"),
    ({"sampler": "unipc", "steps": 999}, "takes 1..998"),
    ({"schedule": "ddim_uniform", "sampler": "unipc", "steps": 1}, "takes 2..998"),
    ({"guidance_scale": math.nan}, "guidance_scale is nan"),
    ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
    ({"guidance_scale": None}, "guidance_scale is None"),
    ({"seeds": ()}, "seeds is empty"),
    ({"seeds": (2**64,)}, "seeds is 18446744073709551616"),
    ({"seeds": (-1,)}, "seeds is -1"),
    ({"seeds": (0.5,)}, "seeds is 0.5"),
    ({"eta": 0.5, "sampler": "euler"}, "only 'ddim' takes it"),
    ({"eta": 1.5}, "eta is 1.5"),
    ({"strength": 1.1}, "strength is 1.1"),
    ({"denoise": 0.0}, "denoise is 0.0; it must be a number 0.001..1"),
    ({"denoise": 0.1, "steps": 200}, "make a schedule of 2000"),
    ({"strength": 0.5, "denoise": 0.5}, "use one"),
    ({"strength": 0.5, "start_step": 1}, "use one"),
    ({"denoise": 0.5, "add_noise": False}, "use one"),
    ({"start_step": 3, "end_step": 3}, "end_step 3 is not after start_step 3"),
    ({"start_step": -1}, "start_step is -1"),
    ({"add_noise": 1}, "add_noise is 1"),
    ({"width": 65}, "multiple of 8, such as 64"),
    ({"height": 0}, "height is 0"),
    ({"width": 2**31}, "width is 2147483648"),
    ({"width": "512"}, "width is '512'"),
    ({"width": 16384, "height": 16384}, "megapixels"),
    ({"sigmas": (1.0,)}, "sigmas has 1 values"),
    ({"sigmas": (1.0, 1.0)}, "sigmas must fall"),
    ({"sigmas": (1.0, math.inf, 0.0)}, "sigmas is inf"),
    ({"sigmas": (1.0, 0.0), "timestep_rule": "flagai"}, "sigmas are a whole schedule"),
    ({"sigmas": (1.0, 0.0), "denoise": 0.5}, "sigmas are a whole schedule"),
    ({"timestep_rule": "flagai", "sampler": "euler"}, "goes with 'ddim' or 'plms'"),
    ({"timestep_rule": "flagai", "schedule": "normal"}, "goes with 'ddim' or 'plms'"),
    ({"sampler": "dpmpp_2m_karras", "schedule": "normal"}, "take 'dpmpp_2m'"),
    ({"sampler": "plms", "schedule": "karras"}, "one length"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG, ids=lambda value: str(value)[:50])
def test_wrong_option_is_one_line(changes, text):
    with pytest.raises(InvalidRequest, match=r".*") as caught:
        check_options(small(**changes))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_right_options_pass():
    for sampler, spec in SAMPLERS.items():
        for steps in (spec.min_steps, spec.max_steps):
            check_options(small(sampler=sampler, steps=steps))
        check_options(small(sampler=sampler, sigmas=(14.0, 0.0)))
    check_options(small(sampler="euler", steps=1, schedule="normal"))


@pytest.mark.parametrize(
    ("changes", "tensors", "text"),
    [
        ({"strength": 0.5}, {}, "go on from init latents"),
        ({"start_step": 1}, {}, "go on from init latents"),
        ({"add_noise": False}, {}, "go on from init latents"),
        ({"strength": 0.1}, {"init": init_latents()}, "no step is left to run"),
        ({"start_step": 5}, {"init": init_latents()}, "no step is left to run"),
        ({}, {"init": Latents(torch.zeros(3, 4, 8, 8))}, "init latents of shape [3, 4, 8, 8]"),
        ({}, {"init": Latents(torch.zeros(1, 4, 8, 9))}, "need [2, 4, 8, 8]"),
        ({}, {"mask": torch.ones(1, 1, 8, 8)}, "a mask needs init latents"),
        ({}, {"init": init_latents(), "mask": torch.ones(1, 4, 8, 8)}, "mask of shape"),
        ({}, {"init": init_latents(), "mask": torch.full((1, 1, 8, 8), 2.0)}, "outside 0..1"),
        ({}, {"init": init_latents(), "mask": torch.full((1, 1, 8, 8), math.nan)}, "outside 0..1"),
        ({}, {"noise": torch.zeros(1, 4, 8, 8)}, "noise of shape [1, 4, 8, 8]"),
        (
            {"add_noise": False},
            {"init": init_latents(), "noise": torch.zeros(2, 4, 8, 8)},
            "choose one",
        ),
        ({}, {"generator": torch.Generator()}, "not with 'per-image'"),
        ({}, {"prediction_type": "sample"}, "prediction type 'sample' is unknown"),
        ({}, {"scheduler_config": {**tiny.SCHEDULER, "beta_schedule": "x"}}, "does not fit"),
    ],
)
def test_wrong_tensor_is_one_line_before_the_network_runs(changes, tensors, text):
    with pytest.raises(InvalidRequest, match=r".*") as caught:
        run(small(**changes), **{"denoiser": None, **tensors})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("positive", "negative", "text"),
    [
        (embeddings(3, 1), embeddings(2, 1), "positive conditioning has shape [3, 7, 24]"),
        (embeddings(2, 1), embeddings(2, 1)[:, :5], "7 tokens by 24, negative 5 by 24"),
        (embeddings(2, 1), embeddings(2, 1)[:, :, :5], "negative 7 by 5"),
        (embeddings(2, 1)[0], embeddings(2, 1), "positive conditioning has shape [7, 24]"),
    ],
)
def test_conditioning_must_fit(positive, negative, text):
    with pytest.raises(InvalidRequest, match=r".*") as caught:
        run(small(), positive=Conditioning(positive), negative=Conditioning(negative))
    assert text in str(caught.value)


def test_guidance_needs_a_negative_side():
    with pytest.raises(InvalidRequest, match="needs negative conditioning"):
        run(small(), negative=None)


def test_lms_without_scipy_names_the_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "scipy" else find(name)
    )
    with pytest.raises(MissingDependency, match="pip install scipy"):
        check_options(small(sampler="lms"))
    check_options(small(sampler="ddim"))


def test_request_leaves_open_what_the_model_knows():
    spec = find_spec("altdiffusion-m9")
    options = SamplingOptions.from_request(ImageRequest(prompts=("a", "b"), seed=7), spec)
    assert options == SamplingOptions(
        sampler="dpmpp_2m", steps=25, guidance_scale=7.5, seeds=(7, 8), width=512, height=512
    )


def test_request_wins_over_the_model():
    request = ImageRequest(
        prompts=("a",),
        width=64,
        height=128,
        steps=9,
        sampler="ddim",
        schedule="normal",
        guidance_scale=0.0,
        seed=3,
        noise="batch",
        eta=0.5,
        strength=0.5,
        guidance_batching="two-pass",
    )
    options = SamplingOptions.from_request(request, find_spec("nano"))
    assert options == SamplingOptions(
        sampler="ddim",
        schedule="normal",
        steps=9,
        guidance_scale=0.0,
        seeds=(3,),
        noise="batch",
        eta=0.5,
        strength=0.5,
        guidance_batching="two-pass",
        width=64,
        height=128,
    )


@pytest.mark.parametrize("file", ["published", "re-saved"])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "lms"])
def test_step_limits_give_finite_pictures(sampler, file):
    """The ends of each sampler's range run; `lms` integrates for 10 s at 999 steps."""

    class Shrink:
        device = torch.device("cpu")

        def __call__(self, latents, timestep, embeddings):
            assert 0 <= timestep <= 999
            return latents * 0.9

    spec = SAMPLERS[sampler]
    for steps in (spec.min_steps, 2, 3, spec.max_steps):
        latents = run(
            small(sampler=sampler, steps=steps, guidance_scale=1.0, seeds=(0,)),
            denoiser=Shrink(),
            scheduler_config=scheduler_files()[file],
        )
        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_one_more_step_would_share_a_level(sampler):
    """Why these end at 998: on a re-saved file the 999-step table starts with one sigma twice."""
    file = scheduler_files()["re-saved"]
    scheduler = make_noise_scheduler(sampler, file, prediction_type="epsilon")
    scheduler.set_timesteps(SAMPLERS[sampler].max_steps + 1)
    assert scheduler.sigmas[0] == scheduler.sigmas[1]


def test_unknown_sampler_lists_the_known():
    with pytest.raises(UnknownName, match=r"Known: ddim, plms, dpmpp_2m"):
        make_noise_scheduler("euler2", tiny.SCHEDULER, prediction_type="epsilon")
