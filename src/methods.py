"""The ways to answer a compositional request, by how the command line asks for them."""

ZERO_SHOT = "zero_shot"
LORA = "lora"
AUXILIARY_LORA = "auxiliary_lora"
JOINT_EXPERT = "joint_expert"
MULTI_STEP = "multi_step"
MERGE = "merge"
CALIBRATION = "calibration"
