"""Efficient compositional multi-tasking for on-device LLMs: merging and learnable calibration of LoRA adapters."""
