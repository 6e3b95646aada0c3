"""What the compiled convolutions of the CPU share."""
