"""What changes a loaded model without another checkpoint: LoRA files, textual inversion files."""
