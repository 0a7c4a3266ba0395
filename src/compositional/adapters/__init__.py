"""LoRA adapters as tensors: PEFT's folders, exact arithmetic on factors, low rank and sparsity."""
