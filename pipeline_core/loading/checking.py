"""`check(path)`: what lies there, which tensors are missing, extra, misshaped or not finite.

Names and shapes are compared with the networks built on the meta device; of the data only a sample
is read. A broken part is a line in the report, not an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PipelineError
from ..models.detect import detect
from ..models.detection import Detection, PartName
from .pickles import list_pickle_tensors
from .plans import PartPlan, plan_safety_checker, plan_text_encoder, plan_unet, plan_vae
from .tensors import TensorSource

SAMPLE = 4096  # values of each tensor that are looked at
SHOWN = 5  # names of a kind in the text


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One network: names as the file writes them, empty where all is well."""

    part: PartName
    files: tuple[str, ...]
    problem: str | None = None  # why nothing more could be found out
    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0
    spelling: str = ""
    dtypes: Mapping[str, int] = field(default_factory=dict[str, int])  # tensors of each
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # known and harmless
    non_finite: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the part will load."""
        faults = self.missing or self.extra or self.misshaped or self.non_finite
        return not (self.problem or faults)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What lies at a path and whether it will load; `str(report)` is the text for people."""

    path: Path
    layout: str
    model: str | None
    reasons: tuple[str, ...]
    absent: tuple[PartName, ...]
    missing: tuple[PartName, ...]
    has_ema: bool
    parts: tuple[PartReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every part that should be there will load."""
        return not self.missing and all(part.ok for part in self.parts)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def check(path: Path | str, *, allow_pickle: bool = False, all_values: bool = False) -> CheckReport:
    """Compare a model's files with the networks they are for.

    NaN and infinity are looked for in a sample of every tensor, or in `all_values`.

    Raises:
        ModelNotFound: nothing is there.
        FileRefused: it cannot be told what lies there, or only by opening a pickle.
    """
    found = detect(path, list_tensors=list_pickle_tensors if allow_pickle else None)
    planners: dict[PartName, Callable[[], PartPlan]] = {
        "text_encoder": lambda: plan_text_encoder(found, allow_pickle=allow_pickle),
        "unet": lambda: plan_unet(found, allow_pickle=allow_pickle),
        "vae": lambda: plan_vae(found, allow_pickle=allow_pickle),
        "safety_checker": lambda: plan_safety_checker(found, allow_pickle=allow_pickle),
    }
    return CheckReport(
        path=found.path,
        layout=found.layout,
        model=found.spec.name if found.spec else None,
        reasons=found.reasons,
        absent=found.absent,
        missing=found.missing,
        has_ema=found.has_ema,
        parts=tuple(
            _report(found, part, plan, SAMPLE if not all_values else None)
            for part, plan in planners.items()
            if part in found.parts
        ),
    )


def _report(
    found: Detection, part: PartName, make_plan: Callable[[], PartPlan], sample: int | None
) -> PartReport:
    files = tuple(path.name for path in found.parts[part].weights)
    try:
        plan = make_plan()
    except PipelineError as exc:
        return PartReport(part=part, files=files, problem=str(exc))
    match, source = plan.match, plan.source
    infos = [source.tensors[name] for name in match.found.values()]
    return PartReport(
        part=part,
        files=files,
        tensors=len(plan.wanted),
        parameters=plan.parameters,
        nbytes=sum(info.nbytes for info in infos),
        spelling=match.spelling.title,
        dtypes=Counter(info.dtype for info in infos),
        missing=match.missing,
        extra=match.extra,
        misshaped=tuple(
            f"{name} {list(has)}, not {list(want)}" for name, has, want in match.misshaped
        ),
        unused=match.unused,
        non_finite=tuple(_non_finite(source, [*match.found.values()], sample)),
    )


def _non_finite(source: TensorSource, names: list[str], sample: int | None) -> Iterator[str]:
    for name, tensor in source.stream(names):
        values = tensor.reshape(-1)
        if sample is not None:
            values = values[:: max(1, len(values) // sample)]
        if values.is_floating_point() and not values.float().isfinite().all():
            yield name


def _lines(report: CheckReport) -> Iterator[str]:
    yield f"{report.path}: {report.layout} layout, {report.model or 'no model of ours'}"
    yield from (f"  {reason}" for reason in report.reasons)
    for part in report.parts:
        yield f"{part.part}: {'ok' if part.ok else 'NOT OK'}, {', '.join(part.files)}"
        if part.problem:
            yield f"  {part.problem}"
            continue
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part.dtypes.items())
        yield (
            f"  {part.tensors} tensors ({dtypes}), {part.parameters / 1e6:.1f} M parameters, "
            f"{part.nbytes / 1e6:.1f} MB, names as {part.spelling}"
        )
        kinds = {
            "missing": part.missing,
            "extra": part.extra,
            "misshaped": part.misshaped,
            "not finite": part.non_finite,
            "unused": part.unused,
        }
        for kind, names in kinds.items():
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                yield f"  {len(names)} {kind}: {', '.join(names[:SHOWN])}{more}"
    yield from (f"{part}: declared absent" for part in report.absent)
    yield from (f"{part}: MISSING, though the model's index names it" for part in report.missing)
    if report.has_ema:
        yield "averaged (EMA) weights of the UNet are there too (--ema takes them)"
