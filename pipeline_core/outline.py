"""`Outline`: what is known of a pipeline before its weights are read, and the check of a request.

A request that an outline completes will run, whatever else happens: options, schedule, prompt
syntax, safety policy and the need for an init image are all looked at here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidRequest
from .models.specs import ModelSpec, PredictionType
from .safety.policy import resolve_policy
from .sampling import SamplingOptions, check_options
from .sampling.plan import make_plan
from .text.embeddings import EmbeddingSource, find_mentions
from .text.syntax import parse
from .values import ImageRequest

GENERATOR = "multilingual-diffusion"  # who wrote a picture's metadata


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model as it will run.

    `source` is its name or the name of its file, never a path: it goes into pictures. `origin`
    says what else made it what it is: parts from other models, EMA weights, a dtype asked for.
    """

    spec: ModelSpec
    source: str
    native_size: int
    scheduler_config: Mapping[str, Any]
    prediction_type: PredictionType | None  # None: the files do not say
    has_checker: bool
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])
    embeddings: EmbeddingSource | None = None  # what prompts may name

    def complete(
        self, request: ImageRequest, *, init_image: str | None = None, mask: str | None = None
    ) -> ImageRequest:
        """Return the request with the model's own values filled in, all of it checked.

        `init_image` and `mask` are the digests of the pixels that will come with it.

        Raises:
            InvalidRequest: naming the option, the value received and what would do.
            PromptSyntaxError: a prompt does not parse.
            ModelNotFound, FileRefused: an embedding it names is not there or cannot be used.
            PipelineError: the safety policy asks for a checker and there is none.
        """
        for name, given in (("init_image", init_image), ("mask", mask)):
            recorded = getattr(request, name)
            if recorded is not None and given is None:
                raise InvalidRequest(
                    f"the request was made with {name} {recorded[:12]}; give it again"
                )
            if recorded is not None and recorded != given:
                raise InvalidRequest(f"{name} is not the one of the request ({recorded[:12]})")
        request = dataclasses.replace(request, **self._missing(request, init_image, mask))
        self._check(request)
        return request

    def options(self, request: ImageRequest) -> SamplingOptions:
        """Return how to sample a completed request."""
        return SamplingOptions.from_request(request, self.spec)

    def known_prediction_type(self) -> PredictionType:
        """Return what the UNet predicts.

        Raises:
            InvalidRequest: nothing says it.
        """
        if self.prediction_type is None:
            raise InvalidRequest(
                f"{self.source} does not say what its UNet predicts; load it with "
                "prediction_type='epsilon' or 'v_prediction'"
            )
        return self.prediction_type

    def describe(self, request: ImageRequest) -> dict[str, Any]:
        """Return the metadata of a request's pictures: strict JSON, no path of this machine."""
        model = {"name": self.spec.name, "source": self.source, **self.origin}
        return {"generator": GENERATOR, "model": model, "request": request.to_metadata()}

    def _missing(
        self, request: ImageRequest, init_image: str | None, mask: str | None
    ) -> dict[str, Any]:
        own = {
            "width": self.native_size,
            "height": self.native_size,
            "steps": self.spec.default_steps,
            "sampler": self.spec.default_sampler,
            "guidance_scale": self.spec.default_guidance_scale,
            "init_image": init_image,
            "mask": mask,
        }
        return {name: value for name, value in own.items() if getattr(request, name) is None}

    def _check(self, request: ImageRequest) -> None:
        options = self.options(request)
        check_options(options)
        resolve_policy(request.safety, has_checker=self.has_checker)
        if request.strength < 1 and request.init_image is None:
            raise InvalidRequest(
                f"strength is {request.strength:g} and there is no init image to keep a part of"
            )
        if request.long_prompt == "single" and self.spec.single_pass_length is None:
            raise InvalidRequest(
                f"long_prompt is 'single', which {self.spec.name} has not; use 'chunk'"
            )
        for prompt in (*request.prompts, *request.negative_prompts):
            find_mentions(parse(prompt).text, self.embeddings)
        make_plan(options, self.scheduler_config, self.known_prediction_type())
