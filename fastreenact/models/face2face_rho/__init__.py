"""Face2Face^rho (ECCV 2022): the networks as published, and their inference form."""
