"""Compare position embeddings on one data set, below and above the training resolution."""
