"""What stands before the names of tensors in single files, as the original code and trainers write.

`cond_stage_model.text_encoder.roberta...` is TEXT_PREFIX, one of TEXT_WRAPPERS, the encoder's own
name (models.md section 2).
"""

from __future__ import annotations

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
TEXT_WRAPPERS = (
    "", "text_encoder.", "ch_clip_model.text_model.", "text_model.", "model.", "bert.",
)  # fmt: skip

LIGHTNING_EMA_PREFIX = "model_ema."  # names without dots behind it
SECOND_EMA_PREFIX = "state_dict_ema."  # ours, for a dump's second dictionary
EMBEDDING_PREFIX = "string_to_param."  # in the pickles of A1111's textual inversions
EMA_PREFIXES = (LIGHTNING_EMA_PREFIX, SECOND_EMA_PREFIX)
