"""Draw the README's pictures: docs/demo.jpg, the demo's contact sheet, and docs/demo.webp, the demo itself."""

from pathlib import Path

from PIL import Image

from fastreenact.app import demo
from fastreenact.engine import Engine

DOCS = Path(__file__).resolve().parent
SIDE = 320


def main() -> None:
    clip = demo.load_template()
    with Engine(demo.portrait()) as engine:
        Image.fromarray(demo.contact_sheet(engine, clip)).save(DOCS / "demo.jpg", quality=88)
        engine.reset()
        engine.use_reference(clip[0])
        frames = [Image.fromarray(engine.step(motion)).crop((64, 0, 384, 320)) for motion in clip]
    frames = [frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for frame in frames]
    frames[0].save(
        DOCS / "demo.webp", save_all=True, append_images=frames[1:], duration=1000 // demo.FPS, loop=0, quality=70
    )


if __name__ == "__main__":
    main()
