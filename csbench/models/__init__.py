"""Networks under their torchvision parameter names."""
