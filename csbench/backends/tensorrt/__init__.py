"""TensorRT: a program becomes its network definition, and an engine that runs on torch tensors."""
