"""Block-sparse convolution on CUTLASS: its source, the compiler for it, and its copies."""
