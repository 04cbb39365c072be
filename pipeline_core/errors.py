"""One exception tree; every message says what, where and what to do.

PipelineError                  everything this library raises on purpose
|-- InvalidRequest             a value of a request is out of range (also a ValueError)
|   |-- UnknownName            a name is not in its table; lists the known ones and the nearest
|   |-- PromptSyntaxError      a bracket or a weight does not parse; carries the position
|   `-- PromptTooLong          longer than the model takes and truncation was not asked for
|-- ModelNotFound              no model under this name or path
|-- FileRefused                a file is broken, hostile, or a pickle that was not allowed
|-- WeightsMismatch            tensors are missing, extra or misshaped
|-- MissingDependency          an optional package is not installed (also an ImportError)
|-- NonFiniteResult            NaN or infinity where a picture should be
|-- UnsafeContent              the safety policy is `block` and an image was flagged
|-- Cancelled                  the caller asked to stop
|-- DownloadError              a download failed; nothing half-written stays
`-- WorkflowError              a graph does not validate or a node failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of all errors raised on purpose; its text is one line for the user."""


class InvalidRequest(PipelineError, ValueError):
    """A value is out of range or does not fit another one."""


class UnknownName(InvalidRequest):
    """A name is not in its table."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = list(known)
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"{kind} {name!r} is unknown{hint} Known: {', '.join(names)}")


class PromptSyntaxError(InvalidRequest):
    """The prompt does not parse; `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (character {position})")
        self.position = position


class PromptTooLong(InvalidRequest):
    """The prompt does not fit and truncation was not asked for."""


class ModelNotFound(PipelineError):
    """No model lies under this name or path."""


class FileRefused(PipelineError):
    """The file is broken, hostile, or a pickle that was not allowed."""


class WeightsMismatch(PipelineError):
    """Tensors are missing, extra or have another shape than the model."""


class MissingDependency(PipelineError, ImportError):
    """An optional package is not installed; the text names the command that installs it."""


class NonFiniteResult(PipelineError):
    """NaN or infinity in a result that should be a picture."""


class UnsafeContent(PipelineError):
    """The safety policy is `block` and at least one image was flagged."""


class Cancelled(PipelineError):
    """The caller asked to stop; nothing was written."""


class DownloadError(PipelineError):
    """A download failed; nothing half-written stays."""


class WorkflowError(PipelineError):
    """A graph does not validate, or one of its nodes failed."""
