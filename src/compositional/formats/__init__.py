"""Models and adapters in the forms of other tools: GGUF, and configurations with a place for a calibration's biases."""
