"""Where models lie: a name goes in, a path inside one of the models folders comes out.

Names come from widgets and workflow files, so a name can never leave its folder: it is checked as
text and again by `realpath`. The embedded model `nano` lies in the package.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidRequest, ModelNotFound
from .detect import CHECKPOINT_SUFFIXES
from .detect_part import part_of_folder
from .detection import PartName
from .names import fault_of_part
from .specs import MODELS

NANO_FOLDER = Path(__file__).parent.parent / "assets" / "nano"
NO_MODELS = ("loras", "embeddings")  # folders below a root that hold what changes models
MAX_DEPTH = 3  # folders below a root that are searched

logger = logging.getLogger("multilingual_diffusion")


def default_folder() -> Path:
    """Return the models folder of the platform's user data; it may not exist yet."""
    places = {"win32": "AppData/Local", "darwin": "Library/Application Support"}
    return Path.home() / places.get(sys.platform, ".local/share") / "multilingual-diffusion/models"


def safe_join(root: Path, name: str) -> Path:
    """Return `root/name`, sure to lie inside `root` after every link is followed.

    `name` uses forward slashes on every system.

    Raises:
        InvalidRequest: the name is empty, absolute, has a part such as `..`, a character or a
            device name that some system treats specially, or a link in it leads outside.
    """
    shown = repr(name[:100])
    if len(name) > 1000:
        raise InvalidRequest(f"the name {shown} is longer than 1000 characters")
    for part in name.split("/"):
        fault = fault_of_part(part)
        if fault:
            raise InvalidRequest(f"the name {shown}: {fault}; use a plain relative name")
    path = root / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise InvalidRequest(f"the name {shown} leads out of {root} through a link")
    return path


@dataclass(frozen=True)
class FoundModel:
    """A model that `list_models` found: `name` is what `find_name` takes."""

    name: str
    path: Path


class ModelFolders:
    """The folders that hold models, in order of preference; without any, the user's data folder."""

    def __init__(self, roots: Iterable[Path | str] = ()) -> None:
        self.roots = tuple(Path(root) for root in roots) or (default_folder(),)

    @property
    def download_folder(self) -> Path:
        """Where downloads go: the first root."""
        return self.roots[0]

    def list_models(self, part: PartName | None = None) -> list[FoundModel]:
        """Return the models in all roots, by name; with `part` also folders of this part alone.

        Nothing is opened but the configs of such folders. A name that two roots hold is the first
        root's.
        """
        found = {"nano": NANO_FOLDER} if NANO_FOLDER.is_dir() else {}
        for root in self.roots:
            for path in _walk(root, MAX_DEPTH, part):
                found.setdefault(path.relative_to(root).as_posix(), path)
        return [FoundModel(name, path) for name, path in found.items()]

    def find_name(self, name: str, part: PartName | None = None) -> Path:
        """Return the model of this name: a file or folder below a root, or a model's own name.

        Letter case matters only where two names differ by nothing else; `altdiffusion-m9` also
        finds a clone named as its repository, `AltDiffusion-m9`. With `part`, folders of this part
        alone are looked through too.

        Raises:
            InvalidRequest: the name could leave its folder.
            ModelNotFound: listing what was found, and how to download.
        """
        if name == "nano" and NANO_FOLDER.is_dir():
            return NANO_FOLDER
        for root in self.roots:
            path = safe_join(root, name)
            if path.exists():
                return path
        wanted = {alias.casefold() for alias in _aliases(name)}
        models = self.list_models(part)
        for model in models:
            if model.name.casefold() in wanted:
                return model.path
        raise self._not_found(name, models)

    def find_model(self, name_or_path: str | Path, part: PartName | None = None) -> Path:
        """Return the model of a name, or the path where a user who may name any path gave one.

        Raises:
            ModelNotFound: it is neither.
        """
        text = str(name_or_path)
        try:
            return self.find_name(text, part)
        except (InvalidRequest, ModelNotFound):
            if os.path.lexists(text):
                return Path(name_or_path)
            if Path(text).is_absolute():
                raise ModelNotFound(
                    f"nothing lies at {text[:200]!r}; `multilingual-diffusion models list` says "
                    "what is there"
                ) from None
            raise

    def _not_found(self, name: str, models: list[FoundModel]) -> ModelNotFound:
        places = ", ".join(str(root) for root in self.roots)
        found = ", ".join(model.name for model in models) or "none"
        spec = MODELS.get(name)
        if spec and (spec.huggingface_id or spec.modelscope_id):
            advice = f"get it with `multilingual-diffusion models download {name}`"
        else:
            known = ", ".join(spec.name for spec in MODELS.values())
            advice = f"known models: {known} (`multilingual-diffusion models download NAME`)"
        return ModelNotFound(f"no model {name[:200]!r} in {places}; found: {found}; {advice}")


def _aliases(name: str) -> Iterator[str]:
    yield name
    spec = MODELS.get(name)
    if spec:
        for repository in (spec.huggingface_id, spec.modelscope_id):
            if repository:
                yield repository.rpartition("/")[2]


def _walk(folder: Path, depth: int, part: PartName | None) -> Iterator[Path]:
    """Yield model folders, those of this part and weights files; none is searched further."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as exc:
        logger.warning("the folder %s cannot be listed: %s", folder, exc)
        return
    for path in entries:
        if path.name.startswith(".") or path.name in NO_MODELS:
            continue
        if path.is_dir():
            alone = part_of_folder(path)
            if _is_model_folder(path) or (alone is not None and alone == part):
                yield path
            elif depth > 1 and alone is None:
                yield from _walk(path, depth - 1, part)
        elif path.suffix in CHECKPOINT_SUFFIXES and path.is_file():
            yield path


def _is_model_folder(folder: Path) -> bool:
    if (folder / "model_index.json").is_file() or (folder / "unet" / "config.json").is_file():
        return True
    return (folder / "config.yaml").is_file() and any(folder.glob("model.*"))
