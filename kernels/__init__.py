"""Triton kernels, one file per op. Import one only where a GPU, or Triton's interpreter, is about to run it."""
