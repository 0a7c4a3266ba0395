"""LoRA adapters as tensors: read from and written to PEFT's folders, without loading the base model."""
