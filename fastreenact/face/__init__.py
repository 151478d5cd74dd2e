"""Faces: keypoints, tracking, the morphable model and its fit, motion, and the crop that a portrait is animated in."""
