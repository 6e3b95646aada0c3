"""cuSPARSELt: the library's binding, and the kernel that lays windows of pixels side by side."""
