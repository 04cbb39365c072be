"""The stages of `nano` in the order they run; apart, so that the command line stays light.

Those of the community model come after: an English model of nano's family, one with a style, and
a LoRA of that one with a trigger word.
"""

UNET_STAGES = ("base", "concept-alignment", "quality", "guidance", "details")
STAGES = (
    "tokenizer",
    "vae",
    "teacher",
    "teacher-learning",
    "checker",
    "latents",
    *UNET_STAGES,
    "decoder",
)
COMMUNITY_MODELS = ("english", "community")
COMMUNITY_STAGES = (*COMMUNITY_MODELS, "trigger")
