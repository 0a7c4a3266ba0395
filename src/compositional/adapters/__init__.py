"""LoRA adapters as tensors: PEFT's folder format, exact arithmetic on factors, low-rank approximation and sparsity."""
