"""Whether a file was cut short, by its own headers: FFmpeg reads a cut one to its end without a word."""

from pathlib import Path
from typing import BinaryIO

_MAX_BOXES = 200_000  # more than a day of fragments; a file of millions of empty boxes is not walked to its end
_KEPT_BOXES = (b"moov", b"moof", b"mdat")  # what playing needs; the end of another may be missing
_UNKNOWN_LENGTH = {(1 << 7 * width) - 1 for width in range(1, 9)}  # a live recording (RFC 8794, section 6.2)


def cut_short(path: Path) -> bool:
    """True where an mp4 or mov box, a Matroska or WebM segment or an AVI file says it is longer than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(b"RIFF"):
            return 8 + int.from_bytes(head[4:8], "little") > size
        file.seek(0)
        return _segment_end(file) > size if head.startswith(b"\x1aE\xdf\xa3") else _box_cut(file, size)


def _box_cut(file: BinaryIO, size: int) -> bool:
    """Walk the outer boxes (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > size:
            return at < size
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:  # the length does not fit 32 bits
            length = int.from_bytes(head[8:])
        if length < 8 or not kind.isalnum():  # 0: up to the end of the file; else no box
            return False
        if kind in _KEPT_BOXES and at + length > size:
            return True
        at += length
    return False


def _segment_end(file: BinaryIO) -> int:
    """Where the first segment ends, 0 where it does not say (RFC 8794: identifier, length, content)."""
    file.seek(4)
    file.seek(_length(file), 1)
    identifier = file.read(4)
    length = _length(file)
    return 0 if identifier != b"\x18S\x80g" or length in _UNKNOWN_LENGTH else file.tell() + length


def _length(file: BinaryIO) -> int:
    """A length of 1 to 8 bytes, as many as the first one has leading zeros, and one."""
    first = file.read(1)
    if not first or not first[0]:
        return 0
    more = 8 - first[0].bit_length()
    return int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more))
