"""N:M on a GPU: by kernels of csbench's own, and by cuSPARSELt."""
