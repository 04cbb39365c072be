"""Names of a text encoder's tensors: the network's own are the published ones; prefixes differ.

Single files put them under `cond_stage_model.`, trainer dumps one wrapper deeper, some of them
twice (the same weights under two names).
"""

from __future__ import annotations

from ..models.key_prefixes import TEXT_PREFIX, TEXT_WRAPPERS
from .matching import Spelling, same

# A tensor that every encoder has, XLM-R's and BERT's.
WORDS = ("roberta.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight")
# What trainer dumps hold beside the encoder: picture towers, projections, copies under other names.
_NOT_TEXT = r"(?!(roberta|transformation|transformation_pre|pre_LN|embeddings|encoder)\.).*"


def text_spellings() -> list[Spelling]:
    """Return the ways files spell a text encoder's names."""
    return [
        Spelling("published", "", same),
        Spelling("Chinese-CLIP", "text_model.", same),
        Spelling("Chinese-CLIP, original code", "bert.", same),
        *(Spelling("LDM", TEXT_PREFIX + wrapper, same, _NOT_TEXT) for wrapper in TEXT_WRAPPERS),
    ]
