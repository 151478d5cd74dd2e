"""Pictures, videos and cameras: read as anybody would see them, written whole or not at all."""

from fastreenact.media.image import MAX_PIXELS, in_a_row, is_picture, picture_format, read_image, write_image
from fastreenact.media.read import AudioTrack, VideoReader
from fastreenact.media.write import VideoWriter

__all__ = [
    "MAX_PIXELS",
    "AudioTrack",
    "VideoReader",
    "VideoWriter",
    "in_a_row",
    "is_picture",
    "picture_format",
    "read_image",
    "write_image",
]
