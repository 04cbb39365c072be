"""The stages of `nano` in the order they run; apart, so that the command line stays light."""

STAGES = (
    "tokenizer",
    "vae",
    "decoder",
    "teacher",
    "teacher-learning",
    "checker",
    "latents",
    "base",
    "concept-alignment",
    "quality",
    "guidance",
)
