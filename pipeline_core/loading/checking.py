"""`check(path)`: what lies there, which tensors are missing, extra, misshaped or not finite.

Names and shapes are compared with the networks built on the meta device; of the data only a sample
is read. The small files are opened as a run opens them. A broken part is a line in the report, not
an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..models.detect import detect
from ..models.detection import PARTS, Detection, PartFiles, PartName
from ..models.strict_json import read_json
from ..safety.preprocess import Preprocessing
from ..text.tokenizers import open_tokenizer
from .parts import load_scheduler_config
from .pickles import list_pickle_tensors
from .plans import PLANNERS
from .tensors import TensorSource

SAMPLE = 4096  # values of each tensor that are looked at
SHOWN = 5  # names of a kind in the text


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One part: names as the file writes them, empty where all is well, as all of small parts."""

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
    there = {*found.parts, "scheduler"}  # a single file notes its values, or its model's are taken
    missing = found.missing
    if "text_encoder" in there and "tokenizer" not in {*there, *missing}:
        missing += ("tokenizer",)
    return CheckReport(
        path=found.path,
        layout=found.layout,
        model=found.spec.name if found.spec else None,
        reasons=found.reasons,
        absent=found.absent,
        missing=missing,
        has_ema=found.has_ema,
        parts=tuple(
            _report(found, part, allow_pickle, None if all_values else SAMPLE)
            for part in PARTS
            if part in there
        ),
    )


def _report(found: Detection, part: PartName, allow_pickle: bool, sample: int | None) -> PartReport:
    try:
        if part in PLANNERS:
            return _report_network(found, part, allow_pickle, sample)
        if part == "tokenizer":
            _try_tokenizer(found)
        else:
            load_scheduler_config(found)
    except PipelineError as exc:
        return PartReport(part=part, files=_file_names(found, part), problem=str(exc))
    return PartReport(part=part, files=_file_names(found, part))


def _file_names(found: Detection, part: PartName) -> tuple[str, ...]:
    files = found.parts.get(part, PartFiles())
    paths = [*files.weights, *files.extra.values()]
    if part == "scheduler" and files.config:
        paths.append(files.config)
    return tuple(path.name for path in paths)


def _try_tokenizer(found: Detection) -> None:
    tokenizer = open_tokenizer(next(iter(found.parts["tokenizer"].extra.values())))
    tokenizer.tokenize("a")


def _report_network(
    found: Detection, part: PartName, allow_pickle: bool, sample: int | None
) -> PartReport:
    plan = PLANNERS[part](found, allow_pickle=allow_pickle)
    preprocessor = found.parts[part].extra.get("preprocessor")
    if preprocessor is not None:
        network: Any = plan.network
        Preprocessing.from_config(read_json(preprocessor)).check_fits(network.image_size)
    match, source = plan.match, plan.source
    infos = [source.tensors[name] for name in match.found.values()]
    return PartReport(
        part=part,
        files=_file_names(found, part),
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
        files = ", ".join(part.files) or "no file of its own"
        yield f"{part.part}: {'ok' if part.ok else 'NOT OK'}, {files}"
        if part.problem:
            yield f"  {part.problem}"
        if not part.tensors:
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
    yield from (f"{part}: MISSING; the model needs it" for part in report.missing)
    if report.has_ema:
        yield "averaged (EMA) weights of the UNet are there too (--ema takes them)"
