"""The landmark warp: a portrait moved by a smooth field from its keypoints, without weights."""

from fastreenact.models.protocol import Model

MODEL = Model(
    name="landmark-warp",
    summary="moves the portrait itself by a smooth field; needs no weights",
    home="fastreenact.models.landmark_warp.form",
    wants=frozenset(("keypoints", "pose")),
    whole=True,
    tracked=True,
    weights="none",
)
