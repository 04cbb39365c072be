"""Write the licence text, where it is known, beside each model that is downloaded or converted.

CreativeML Open RAIL-M asks that whoever passes the weights on passes the text on too; the text is
the one of CompVis/stable-diffusion, LICENSE, commit 21f890f9.
"""

from __future__ import annotations

from pathlib import Path

from .specs import OPEN_RAIL_M, EncoderFamily, ModelSpec

_TEXTS = Path(__file__).parent / "licences"

# licence of a spec -> resource and the name it is written under
_LICENCES = {
    OPEN_RAIL_M: ("creativeml-openrail-m.txt", "LICENSE-CreativeML-OpenRAIL-M.txt"),
    "Apache-2.0": ("apache-2.0.txt", "LICENSE-Apache-2.0.txt"),
}
_NOTICE = (
    "{title}: the terms of these weights are on the model's page, {page}\n"
    "Read them there before you use the weights or pass them on.\n"
)
_VOCABULARIES: dict[EncoderFamily, str] = {
    "altdiffusion": "xlm-roberta-vocabulary.txt",
    "altdiffusion-m18": "xlm-roberta-vocabulary.txt",
    "chinese-clip": "chinese-vocabulary.txt",
}


def write_licence(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """Write the model's licence and the notice of its vocabulary into a folder.

    A licence that is not known to us is on the model's page, which a notice names instead. Returns
    the files written; files of these names are replaced.
    """
    vocabulary = _VOCABULARIES[spec.encoder]
    texts = {f"NOTICE-{vocabulary}": _read(vocabulary)}
    if spec.licence in _LICENCES:
        resource, name = _LICENCES[spec.licence]
        texts[name] = _read(resource)
    else:
        texts["NOTICE-licence.txt"] = _NOTICE.format(title=spec.title, page=model_page(spec))
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return tuple(folder / name for name in texts)


def model_page(spec: ModelSpec) -> str:
    """Return the address of the page that a model is published on."""
    if spec.huggingface_id:
        return f"https://huggingface.co/{spec.huggingface_id}"
    return f"https://modelscope.cn/models/{spec.modelscope_id}"


def _read(name: str) -> str:
    return (_TEXTS / name).read_text(encoding="utf-8")
