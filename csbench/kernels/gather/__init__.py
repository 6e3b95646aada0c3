"""Convolution by gathered channels: output channels in units that share the columns they keep."""
