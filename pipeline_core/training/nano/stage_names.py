"""The stages of `nano` in the order they run; apart, so that the command line stays light.

Those of the community model come after: an English model of nano's family, and one with a style.
"""

STAGES = (
    "tokenizer",
    "vae",
    "teacher",
    "teacher-learning",
    "checker",
    "latents",
    "base",
    "concept-alignment",
    "quality",
    "guidance",
)
COMMUNITY_STAGES = ("english", "community")
