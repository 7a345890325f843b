"""Options of command lines that several tests give."""

#: A training of the smallest ViT, which logs every step.
TINY_TRAINING = ["--device", "cpu", "--width", "16", "--depth", "1", "--heads", "1", "--log-interval", "1"]
