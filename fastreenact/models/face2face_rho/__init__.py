"""Face2Face^rho (ECCV 2022): the networks as published, and their inference form."""

from fastreenact.models.protocol import Model, Official

MODEL = Model(
    name="face2face-rho",
    summary="Face2Face^rho as published; needs the official weights",
    home="fastreenact.models.face2face_rho.form",
    wants=frozenset(("keypoints", "pose")),
    shares=(1, 2, 4),
    how_to_get="make them of the official checkpoints with `fastreenact convert RENDERING.pth MOTION.pth`",
    networks="Face2Face^rho",
    official=Official(
        home="fastreenact.models.face2face_rho.convert",
        checkpoints=(("RENDERING", "the rendering module's .pth"), ("MOTION", "the motion module's .pth")),
        out="face2face_rho.safetensors",
        size=512,
    ),
    target="fastreenact.training.targets.face2face_rho",
)
