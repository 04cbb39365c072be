"""A run's history as a picture: loss over steps, and any other number it kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, MissingDependency
from .loop import read_history


def plot_history(
    histories: Sequence[Path], target: Path, *, value: str = "loss", smoothing: int = 10
) -> None:
    """Draw `value` of one or several histories, one after another along the steps, as a PNG.

    Raises:
        MissingDependency: matplotlib is not installed.
        InvalidRequest: no history holds the value.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingDependency(
            'plots need matplotlib: pip install "comfyui-multilingual-diffusion[train]"'
        ) from exc
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    offset, shown = 0.0, list[float]()
    for path in histories:
        lines = [line for line in read_history(path) if value in line]
        if not lines:
            continue
        steps = [offset + line["step"] for line in lines]
        values = _smooth([line[value] for line in lines], smoothing)
        axes.plot(steps, values, label=path.parent.name)
        offset = steps[-1]
        shown += values
    if not shown:
        raise InvalidRequest(f"none of {', '.join(map(str, histories))} holds {value!r}")
    axes.set(xlabel="steps", ylabel=value, yscale="log" if min(shown) > 0 else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Return running means over at most `window` values."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]
