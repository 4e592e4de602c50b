"""The zoo: one recipe a file, each a real trained model. Nothing is imported until it is chosen."""

ZOO = {
    "digits-cnn": "dlc.models.digits_cnn:recipe",
    "digits-mlp": "dlc.models.digits_mlp:recipe",
    "efficientnet-lite0": "dlc.models.efficientnet_lite0:recipe",
    "fracast": "dlc.models.fracast:recipe",
    "minilm": "dlc.models.minilm:recipe",
    "resemblyzer": "dlc.models.resemblyzer:recipe",
    "silero-vad": "dlc.models.silero_vad:recipe",
    "smollm2": "dlc.models.smollm2:recipe",
}
