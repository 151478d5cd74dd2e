"""The landmark warp refined by networks: they correct its field and draw over its picture. Not of a paper."""

from fastreenact.models.protocol import Model

MODEL = Model(
    name="refined-warp",
    summary="the landmark warp, its field corrected and light, shadow and what was hidden added by networks",
    home="fastreenact.models.refined_warp.form",
    wants=frozenset(("keypoints", "pose")),
    whole=True,
    tracked=True,
    shares=(1, 2, 4),
    weights="shipped",
    shipped=("face2face_rho.safetensors", "2af0171febd1b043de103a68c4ceb173d4d1dd4eccb752ed35487f3eae14d661"),
    former=({"model": "face2face-rho", "base": "landmark-warp"},),
    networks="Face2Face^rho",
    target="fastreenact.training.targets.refined_warp",
    over_base=True,
)
