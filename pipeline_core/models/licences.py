"""Write the licence texts beside every model that this pack downloads or converts.

CreativeML Open RAIL-M asks that whoever passes the weights on passes the text on too; the text is
the one of CompVis/stable-diffusion, LICENSE, commit 21f890f9.
"""

from __future__ import annotations

from pathlib import Path

from .specs import EncoderFamily, ModelSpec

_TEXTS = Path(__file__).parent / "licences"

# licence of a spec -> resource and the name it is written under
_LICENCES = {
    "CreativeML OpenRAIL-M": ("creativeml-openrail-m.txt", "LICENSE-CreativeML-OpenRAIL-M.txt"),
    "Apache-2.0": ("apache-2.0.txt", "LICENSE-Apache-2.0.txt"),
}
_VOCABULARIES: dict[EncoderFamily, str] = {
    "altdiffusion": "xlm-roberta-vocabulary.txt",
    "altdiffusion-m18": "xlm-roberta-vocabulary.txt",
    "chinese-clip": "chinese-vocabulary.txt",
}


def licence_text(spec: ModelSpec) -> str:
    """Return the full licence text of a model."""
    return _read(_LICENCES[spec.licence][0])


def write_licence(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """Write the model's licence and the notice of its vocabulary into a folder.

    Returns the files written; files of these names are replaced.
    """
    resource, name = _LICENCES[spec.licence]
    vocabulary = _VOCABULARIES[spec.encoder]
    written = {folder / name: resource, folder / f"NOTICE-{vocabulary}": vocabulary}
    for path, text in written.items():
        path.write_text(_read(text), encoding="utf-8", newline="\n")
    return tuple(written)


def _read(name: str) -> str:
    return (_TEXTS / name).read_text(encoding="utf-8")
