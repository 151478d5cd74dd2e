"""The landmark warp: a portrait moved by a smooth field from its keypoints, without weights."""
