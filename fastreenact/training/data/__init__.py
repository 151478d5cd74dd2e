"""What training is fed with: shots of one person, from generated heads, photographs, videos or VoxCeleb."""
