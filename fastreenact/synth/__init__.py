"""Made-up data, for training and evaluation alike."""
