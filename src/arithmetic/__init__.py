"""The arithmetic that merge strategies share: pure functions of tensors."""
