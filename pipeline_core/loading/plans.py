"""From a detection to a plan of one part: its config, its network without weights, its tensors.

A plan costs no memory and no data is read for it: the network is on the meta device, files are
known by their headers. `parts` fills plans, `checking` reports them, `convert` writes them out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from ..errors import FileRefused, InvalidRequest, ModelNotFound, PipelineError, WeightsMismatch
from ..models.detection import Detection, PartFiles, PartName
from ..models.key_prefixes import UNET_PREFIX, VAE_PREFIX
from ..models.specs import published_spec
from ..models.strict_json import read_json
from ..safety.network import build_safety_network, rename_key
from ..text.encoders import ENCODERS
from . import keys_text, keys_unet, keys_vae, schemas, shapes
from .dtypes import TORCH_DTYPES
from .matching import Match, Shape, Spelling, match
from .tensors import TensorSource, open_weights

Config = dict[str, Any]


@dataclass(frozen=True)
class PartPlan:
    """One part, ready to be filled: `network` is on the meta device."""

    part: PartName
    config: Config
    network: torch.nn.Module
    wanted: Mapping[str, Shape]  # the network's tensors
    source: TensorSource
    match: Match

    @property
    def parameters(self) -> int:
        """Numbers in the network."""
        return sum(value.numel() for value in self.network.parameters())


def plan_text_encoder(detection: Detection, *, allow_pickle: bool = False) -> PartPlan:
    """Plan the text encoder.

    Raises:
        ModelNotFound: the model has none that we know.
        FileRefused: a file or the config is broken, or a pickle was not allowed.
        WeightsMismatch: a file without config lacks what its sizes are read from.
    """
    files, source = _open(detection, "text_encoder", allow_pickle)
    family = detection.encoder
    if family is None:
        raise ModelNotFound(f"{detection.path} has no text encoder of a known family")

    def derive() -> Config:
        names = _behind_text_prefix(source.shapes)
        return shapes.text_config(names, published_spec(family).text_config, source.where)

    parse = functools.partial(schemas.parse_text_config, family=family)
    config = _config(files, source, parse, derive)
    network = _build(source.where, lambda: ENCODERS[family].build(config))
    unused = ENCODERS[family].unused(config)
    return _plan("text_encoder", config, network, source, keys_text.text_spellings(), unused)


def plan_unet(detection: Detection, *, allow_pickle: bool = False, ema: bool = False) -> PartPlan:
    """Plan the UNet, with its averaged weights if `ema`.

    Raises:
        ModelNotFound: the model has no UNet.
        FileRefused: a file or the config is broken, or a pickle was not allowed.
        WeightsMismatch: a file without config lacks what its sizes are read from.
        InvalidRequest: averaged weights are asked for and not there.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if ema and not detection.has_ema:
        raise InvalidRequest(f"{detection.path} holds no averaged (EMA) weights; leave ema off")
    files, source = _open(detection, "unet", allow_pickle)

    def derive() -> Config:
        names = shapes.strip_prefix(source.shapes, UNET_PREFIX) or source.shapes
        return shapes.unet_config(names, source.where)

    config = _config(files, source, schemas.parse_unet_config, derive)
    network = _build(source.where, lambda: UNet2DConditionModel(**config))
    spellings = keys_unet.unet_spellings(config, ema=ema)
    return _plan("unet", config, network, source, spellings)


def plan_vae(detection: Detection, *, allow_pickle: bool = False) -> PartPlan:
    """Plan the VAE.

    Raises:
        ModelNotFound: the model has no VAE.
        FileRefused: a file or the config is broken, or a pickle was not allowed.
        WeightsMismatch: a file without config lacks what its sizes are read from.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    files, source = _open(detection, "vae", allow_pickle)

    def derive() -> Config:
        names = shapes.strip_prefix(source.shapes, VAE_PREFIX) or source.shapes
        return shapes.vae_config(names, source.where)

    config = _config(files, source, schemas.parse_vae_config, derive)
    network = _build(source.where, lambda: AutoencoderKL(**config))
    return _plan("vae", config, network, source, keys_vae.vae_spellings(config))


def plan_safety_checker(detection: Detection, *, allow_pickle: bool = False) -> PartPlan:
    """Plan the safety checker.

    Raises:
        ModelNotFound: the model has no safety checker.
        FileRefused: a file or the config is broken, or a pickle was not allowed.
    """
    files, source = _open(detection, "safety_checker", allow_pickle)

    def derive() -> Config:
        raise FileRefused(f"{source.where}: a safety checker needs its config.json beside it")

    config = _config(files, source, schemas.parse_safety_config, derive)
    network = _build(source.where, lambda: build_safety_network(config))
    published = {rename_key(name): name for name in source.tensors}
    spelling = Spelling("published", "", lambda name: published.get(name, name))
    return _plan("safety_checker", config, network, source, [spelling], [r".*\.position_ids"])


class Planner(Protocol):
    """Plan one part of a detection."""

    def __call__(self, detection: Detection, *, allow_pickle: bool = False) -> PartPlan: ...


PLANNERS: Mapping[PartName, Planner] = {
    "text_encoder": plan_text_encoder,
    "unet": plan_unet,
    "vae": plan_vae,
    "safety_checker": plan_safety_checker,
}


def _open(
    detection: Detection, part: PartName, allow_pickle: bool
) -> tuple[PartFiles, TensorSource]:
    files = detection.parts.get(part)
    if files is None:
        raise ModelNotFound(
            f"{detection.path} has no {part}; it has: {', '.join(detection.parts) or 'nothing'}"
        )
    source = open_weights(files.weights, allow_pickle=allow_pickle, model=detection.path)
    return files, source


def _config(
    files: PartFiles,
    source: TensorSource,
    parse: Callable[[Mapping[str, Any], str], Config],
    derive: Callable[[], Config],
) -> Config:
    """Return the part's config: from its JSON, or derived where a single file has none."""
    if files.config is not None and files.config.suffix == ".json":
        return parse(read_json(files.config), str(files.config))
    return parse(derive(), source.where)


class _NoInitialValues(TorchFunctionMode):
    """Skip drawing initial weights: a quarter of the time of building on the meta device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        in_place = (torch.Tensor.uniform_, torch.Tensor.normal_)
        if func in in_place or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


# What the libraries' constructors raise for sizes that do not go together.
_UNBUILDABLE = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError,
    ArithmeticError,
)  # fmt: skip


def _build(where: str, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    try:
        with torch.device("meta"), _NoInitialValues():
            return build().train(False).requires_grad_(False)
    except PipelineError:
        raise
    except _UNBUILDABLE as exc:
        raise FileRefused(f"{where}: this config builds no network: {exc}") from exc


def _plan(
    part: PartName,
    config: Config,
    network: torch.nn.Module,
    source: TensorSource,
    spellings: Sequence[Spelling],
    unused: Iterable[str] = (),
) -> PartPlan:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = match(wanted, source.shapes, spellings, unused)
    for name in found.found.values():
        if not TORCH_DTYPES[source.tensors[name].dtype].is_floating_point:
            raise WeightsMismatch(
                f"{source.where}: {name} is {source.tensors[name].dtype}, not a floating-point "
                "tensor; quantised files are not supported"
            )
    return PartPlan(part, config, network, wanted, source, found)


def _behind_text_prefix(present: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the encoder's tensors of a single file, their prefix taken off."""
    prefixes = [spelling.prefix for spelling in keys_text.text_spellings()]
    best = max(
        prefixes, key=lambda prefix: sum(f"{prefix}{word}" in present for word in keys_text.WORDS)
    )
    return shapes.strip_prefix(present, best)
