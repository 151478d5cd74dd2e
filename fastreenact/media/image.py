"""Pictures: read as anybody would see them, written whole or not at all. Videos: see `read` and `write`."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError
from fastreenact.media.files import check_frame, check_in, shown, turned, whole_file
from fastreenact.media.read import reason

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_000_000  # a decompression bomb is refused before it is unpacked (RELIABILITY.md, F4)

# Formats that hold photographs. EPS and PDF run an interpreter, MPEG is a video: Pillow is not asked about them.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA")
_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_STRIP_PIXELS = 1 << 22  # converting takes several copies, so it goes by strips: 7 bytes a pixel at most, not 17
_EXIF_ORIENTATION = 0x0112
# orientation -> (transpose first, then mirror left-right, flip top-bottom) that sets it upright (TIFF 6.0, tag 274)
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_pillow_limit = threading.Lock()


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture upright, as 8-bit sRGB.

    EXIF orientation is applied; transparency is composited on white; gray, palette, 16-bit and CMYK are converted (an
    embedded colour profile other than sRGB included); of an animation the first frame is taken.

    Args:
        path: JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, PPM, JPEG 2000 or TGA file.
        max_pixels: refuse pictures with more pixels than this, before unpacking them.

    Returns:
        uint8 [H, W, 3] RGB, C-contiguous.

    Raises:
        MediaError: the file is missing, not a picture, damaged, cut short or larger than `max_pixels`.
    """
    try:
        check_in(Path(path), "picture")
        with _opened(path, max_pixels) as picture:
            picture.load()
            rgb, turn = _to_rgb(picture), _turn(picture)
            picture.close()  # a large one need not wait for the garbage collector
            return turned(rgb, *turn)
    except MediaError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise MediaError(
            f"{shown(path)} cannot be read as a picture ({_reason(error)}): save or copy it anew, as JPEG or PNG"
        ) from error


def is_picture(path: str | os.PathLike[str]) -> bool:
    """True for a file that Pillow knows as a still picture (by its content, not its name)."""
    try:
        check_in(Path(path), "picture")
        with _opened(path, None) as picture:
            return not getattr(picture, "is_animated", False) or picture.format in ("MPO", "TIFF")  # views, pages
    except (OSError, ValueError, SyntaxError, MediaError):
        return False


def _opened(path: str | os.PathLike[str], max_pixels: int | None) -> "Image.Image":
    """Open without decoding, under our pixel limit instead of Pillow's (which is global and warns instead)."""
    from PIL import Image

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # AVIF is not in every build
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(Path(path), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    width, height = picture.size
    # Of an animated WebP, libwebp and Pillow hold four canvases, however small the frames in it are.
    animated = picture.format == "WEBP" and getattr(picture, "is_animated", False)
    if max_pixels is not None and width * height > max_pixels // (4 if animated else 1):
        picture.close()
        raise MediaError(
            f"{shown(path)} has {width} x {height} pixels, more than the limit of "
            f"{max_pixels / (4e6 if animated else 1e6):.0f} million"
            f"{' for an animation' if animated else ''}: make it smaller, or raise max_pixels if you "
            "trust it"
        )
    return picture


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture format known here"
    return reason(error) or type(error).__name__


def _turn(picture: "Image.Image") -> tuple[bool, bool, bool]:
    """How EXIF or XMP say that the picture is turned, see _TURNS; damaged metadata say nothing."""
    try:
        return _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION, 1), (False, False, False))
    except Exception:  # Pillow's parsers raise nearly anything, and every viewer shows such a picture
        return False, False, False


def _to_rgb(picture: "Image.Image") -> NDArray[np.uint8]:
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = _strip_to_rgb(picture.crop((0, top, width, bottom)))
    return rgb


def _strip_to_rgb(picture: "Image.Image") -> NDArray[np.uint8]:
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        return _gray_to_8_bit(np.asarray(picture))[..., None]
    picture = _to_srgb(picture)
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def _gray_to_8_bit(gray: NDArray) -> NDArray[np.uint8]:
    """Scale gray of more than 8 bits, which Pillow's own conversion would clip at 255."""
    if gray.dtype.kind == "f":
        raise ValueError("floating-point values have no agreed white")
    if gray.max() > 65535 or gray.min() < 0:
        raise ValueError("gray values outside 0..65535")
    return ((gray.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _to_srgb(picture: "Image.Image") -> "Image.Image":
    """Apply an embedded colour profile other than sRGB (CMYK prints, wide-gamut phones)."""
    profile_bytes = picture.info.get("icc_profile")
    if not profile_bytes or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    import io

    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return picture
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return picture  # a broken profile is common and harmless: the values are shown as they are
    return converted if converted is not None else picture


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8], *, force: bool = False) -> None:
    """Write a picture, the format by the file's suffix; the file appears complete or not at all.

    Args:
        path: .png, .jpg, .webp, .bmp or .tif; PNG is lossless, JPEG and WebP are written at quality 95.
        image: uint8 [H, W, 3] RGB.
        force: overwrite an existing file.

    Raises:
        MediaError: another suffix, the file exists and `force` is False, or it cannot be written.
        ValueError: `image` is not uint8 [H, W, 3].
    """
    from PIL import Image

    check_frame(image)
    kind = picture_format(path)
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    try:
        with whole_file(path, force=force) as part:
            Image.fromarray(image).save(part, format=kind, **options)
    except OSError as error:
        raise MediaError(f"{shown(path)} cannot be written ({error.strerror or error})") from error


def picture_format(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that `path` ends in; MediaError where `write_image` would refuse it."""
    kind = _SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise MediaError(f"{shown(path)}: pictures are written as {', '.join(_SUFFIXES)}; choose one of these endings")
    return kind


def in_a_row(panels: Sequence[NDArray[np.uint8]], height: int) -> NDArray[np.uint8]:
    """Put pictures in a row, each scaled to `height` with its proportions kept.

    Args:
        panels: uint8 [h, w, 3] each, sizes may differ.
        height: of the row, in pixels.

    Returns:
        uint8 [height, W, 3].
    """
    return np.concatenate([_scaled(panel, height) for panel in panels], axis=1)


def _scaled(panel: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    from PIL import Image

    if panel.shape[0] == height:
        return panel
    width = max(1, round(panel.shape[1] * height / panel.shape[0]))
    return np.asarray(Image.fromarray(panel).resize((width, height), Image.Resampling.LANCZOS))
