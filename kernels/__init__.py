"""Triton kernels, one file per op. Import a kernel's module only where a GPU (or Triton's interpreter) is about to use it."""
