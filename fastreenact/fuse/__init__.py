"""What inference forms are made of: exact algebra, fused layers, staging buffers and slabs."""
