"""Training of Face2Face^rho: losses, data, and the loop. Nothing here is imported for inference."""
