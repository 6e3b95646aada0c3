"""Element-wise work on the weights of a network in training, all layers in one launch."""
