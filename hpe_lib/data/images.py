"""The images of people: files, or arrays. Everything is (H, W, 3) uint8 RGB, upright."""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hpe_lib.geometry import Frame
from hpe_lib.workbook.artifacts import BadInput, one_line, open_file

try:
    import simplejpeg
except ImportError:  # where its wheel is absent Pillow reads JPEGs, and misses some damage
    simplejpeg = None

# Limits that are checked before decoding, which then stays under 1 GB.
MAX_PIXELS = 40_000_000
MAX_JPEG_PIXELS = 52_000_000
MAX_JPEG2000_PIXELS = 20_000_000
MAX_BYTES = 500_000_000  # of a file
MAX_SCANS = 100  # of a progressive JPEG; the usual has ten
UPRIGHT = 1  # EXIF orientation
# EPS is left out: reading it runs a program.
FORMATS = "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"
EXPECTED = (
    f"JPEG of at most {MAX_JPEG_PIXELS / 1e6:.0f} million pixels, or a "
    f"{', '.join(FORMATS)} image of at most {MAX_PIXELS / 1e6:.0f} million "
    f"(JPEG2000: {MAX_JPEG2000_PIXELS / 1e6:.0f})"
)
# markers: a sequential and a progressive frame, a scan; JFIF, EXIF, ICC and Adobe's colours
SOF, SOF2, SOS, APP0, APP1, APP2, APP14 = (0xC0, 0xC1), 0xC2, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
EOI = 0xD9  # the end of an image
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
BLOCKS = ("exif", "icc_profile", "xmp")  # bytes that Pillow keeps beside the pixels
WHITE_IS_ZERO = 0  # a value of the latter
# a marker with a length; restarts stand within a scan, and 01 means nothing
MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])", re.DOTALL)
# A file that cannot be used is refused in one line; Pillow's warnings would stand beside it.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Images(Protocol):
    """The images of N people. images[i] is person i's (H, W, 3) uint8 RGB.

    source: a description of the images, without paths.
    """

    source: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> np.ndarray: ...

    def select(self, rows: Iterable[int]) -> "Images":
        """The images of these rows, in this order."""

    def crop(self, row: int, frame: Frame) -> np.ndarray:
        """(S, S, 3) uint8 RGB, what the frame shows of person `row`."""
        return frame.crop(self[row])


@dataclass(frozen=True, eq=False)
class ImageFiles(Images):
    """Images on disk, read when they are asked for."""

    paths: list[Path]
    source: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        return read_image(self.paths[row])

    def select(self, rows: Iterable[int]) -> "ImageFiles":
        """As Images.select."""
        return ImageFiles([self.paths[row] for row in rows], self.source)

    def crop(self, row: int, frame: Frame) -> np.ndarray:
        """As Images.crop.

        A JPEG that is at least 2, 4 or 8 times finer than the crop is decoded as many times
        coarser. That costs less, and means over blocks alias less than single pixels.
        """
        path = self.paths[row]
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            return frame.crop(read_image(path))
        steps = (step for step in (8, 4, 2) if frame.side >= step * frame.image_size)
        step = next(steps, 1)
        image = read_image(path, step)
        return frame.on(step).crop(image) if step > 1 else frame.crop(image)


@dataclass(frozen=True, eq=False)
class ImageArrays(Images):
    """Images in memory, or mapped from a file: a sequence of (H, W, 3) uint8 RGB."""

    arrays: Sequence[np.ndarray]
    source: str

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.arrays[row]

    def select(self, rows: Iterable[int]) -> "ImageArrays":
        """As Images.select; no pixel is copied."""
        return ImageArrays([self.arrays[row] for row in rows], self.source)


@dataclass(frozen=True, eq=False)
class MixedImages(Images):
    """Images of several kinds. rows[i] is (part, row): person i's image is parts[part][row]."""

    parts: list[Images]
    rows: list[tuple[int, int]]
    source: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        part, own_row = self.rows[row]
        return self.parts[part][own_row]

    def select(self, rows: Iterable[int]) -> "MixedImages":
        """As Images.select."""
        return replace(self, rows=[self.rows[row] for row in rows])

    def crop(self, row: int, frame: Frame) -> np.ndarray:
        """As Images.crop, by the part's own way."""
        part, own_row = self.rows[row]
        return self.parts[part].crop(own_row, frame)


def read_image(path: Path, step: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, as `decode_image`.

    Raises BadInput where the file is absent, too.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise BadInput(path, f"{size:,} bytes", f"an image of at most {MAX_BYTES:,}")
            data = file.read()
    except IsADirectoryError:
        raise BadInput(path, "a folder", "an image") from None
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(path, "no such file", "an image") from None
    except OSError as error:  # no permission, a name too long, a pipe
        raise BadInput(path, error.strerror, "an image") from None
    except ValueError as error:  # a name with a NUL
        raise BadInput(path, error, "an image") from None
    return decode_image(path, data, step)


def decode_image(name: str | Path, data: bytes, step: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file's bytes, turned upright. The first image of several.

    16-bit grey keeps its high byte, transparent pixels become white, CMYK is multiplied out.
    step: 2, 4 or 8 gives an image as many times coarser, its sides rounded up.
    Raises BadInput, with the file's name, if the data is no image, damaged or too large. Only PNG
    has checksums: changes that leave another format readable cannot be told from other pixels.
    """
    decode = _decode_jpeg if data[:2] == b"\xff\xd8" else _decode_by_pillow
    try:
        return decode(data, step)
    except UnidentifiedImageError:
        fault = "no image that can be read"
    except Exception as error:  # Pillow raises whatever its formats stumble over
        fault = one_line(error) or type(error).__name__
    raise BadInput(name, f"{len(data)} bytes: {fault}", f"a whole {EXPECTED}")


def _decode_jpeg(data: bytes, step: int) -> np.ndarray:
    """A JPEG by libjpeg, any damage an error: OpenCV would fill the gap and go on."""
    if simplejpeg is None:
        return _decode_by_pillow(data, step, ("JPEG",))
    segments = list(_jpeg_segments(data))
    scans = data.count(bytes([0xFF, SOS]))  # in what lies behind the image, too
    if scans > MAX_SCANS and segments and segments[-1][0] == SOS:
        scans = _count_scans(data, segments[-1][2])
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans")
    plain = _repair_header(data, segments)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(plain)
    except ValueError:  # no header, or colours sampled in a way that it does not know
        return _decode_by_pillow(data, step, ("JPEG",))
    _check_size(width, height, MAX_PIXELS if "K" in colours else MAX_JPEG_PIXELS)
    orientation = _orientation(data, segments)
    if step > 1 and orientation != UPRIGHT:
        # libjpeg fills up the last coarse pixels, which turning would put first.
        return _decode_by_pillow(data, step, ("JPEG",))
    pixels = simplejpeg.decode_jpeg(
        plain,
        "CMYK" if colours in ("CMYK", "YCCK") else "RGB",
        min_height=-(-height // step),
        min_width=-(-width // step),
    )
    if pixels.shape[2] == 4:  # CMYK, inverted as Adobe writes it
        pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    return _turn_upright(pixels, orientation)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The header's segments of a JPEG up to its first scan: (marker, where its content lies)."""
    start = 2
    while data[start : start + 1] == b"\xff" and start + 4 <= len(data):
        marker = data[start + 1]
        if marker == 0xFF:  # padding
            start += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            start += 2
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if end > len(data):
            return
        yield marker, start + 4, end
        if marker == SOS:
            return
        start = end


def _count_scans(data: bytes, place: int) -> int:
    """How many scans a JPEG's first image has; behind it phones put more, such as a film.

    place: where the data of the first scan begin.
    """
    scans = 1
    while (found := MARKER.search(data, place)) and found[1][0] != EOI:
        scans += found[1][0] == SOS
        length = data[found.end() : found.end() + 2]
        place = found.end() + int.from_bytes(length, "big")
    return scans


def _repair_header(data: bytes, segments: list[tuple[int, int, int]]) -> bytes:
    """Correct harmless header values that libjpeg warns about; the pixels stay as they are.

    libjpeg reports its first warning only, so it would not report a hole in the data after one.
    Odd values become those that libjpeg assumes.
    """
    frames = [data[start + 5] for marker, start, _ in segments if marker in (*SOF, SOF2)]
    clean = bytearray(data)
    colours = (frames or [3])[0]
    for marker, start, end in segments:
        if marker == APP0 and data[start : start + 5] == b"JFIF\0":
            clean[start + 5] = 1  # the only revision there is
        elif marker == APP14 and data[start : start + 5] == b"Adobe" and data[start + 11] > 2:
            clean[start + 11] = 1 if colours == 3 else 2
        elif marker == SOS and any(kind in SOF for kind, *_ in segments):
            clean[end - 3 : end] = b"\0\x3f\0"
    for marker, start, end in reversed(segments):
        if marker == APP2:  # colour profiles are not used
            del clean[start - 4 : end]
    return bytes(clean)


def _orientation(data: bytes, segments: list[tuple[int, int, int]]) -> int:
    """How a JPEG's first EXIF block says that its pixels lie; upright without one, or if broken."""
    blocks = (data[start:end] for marker, start, end in segments if marker == APP1)
    block = next((block for block in blocks if block.startswith(b"Exif\0\0")), b"")
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # as above
        exif.load(block)
        found = exif.get(ExifTags.Base.Orientation)
        return found if found in range(1, 9) else UPRIGHT
    return UPRIGHT


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned or mirrored as an EXIF orientation says."""
    if orientation == UPRIGHT:
        return pixels
    image = Image.fromarray(pixels)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(image))


def _decode_by_pillow(data: bytes, step: int, formats: Sequence[str] = FORMATS) -> np.ndarray:
    Image.open(io.BytesIO(data), formats=formats).verify()  # PNG's checksums; loading skips them
    image = Image.open(io.BytesIO(data), formats=formats)
    most = {"JPEG2000": MAX_JPEG2000_PIXELS}
    if image.mode != "CMYK":
        most["JPEG"] = MAX_JPEG_PIXELS
    _check_size(*image.size, most.get(image.format, MAX_PIXELS))
    for name in BLOCKS:
        if isinstance(image.info.get(name), str):  # a PNG's text of this name
            del image.info[name]
    _check_holes(image, data)
    ImageOps.exif_transpose(image, in_place=True)  # a copy only where it is turned
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        image = _high_bytes(image)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels")
    if image.has_transparency_data:
        image = _on_white(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image.reduce(step) if step > 1 else image)


def _high_bytes(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, or of 12 in a TIFF, in 8 bits, with what is transparent, and black
    where 0 means white.
    """
    tags = getattr(image, "tag_v2", {})
    depth = tags.get(BITS_PER_SAMPLE, (16,))[0]
    grey = (np.asarray(image) >> (depth - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    made = Image.fromarray(grey)
    if "transparency" in image.info:
        alpha = np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
        made.putalpha(Image.fromarray(alpha))
    return made


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA without transparency; no copies but what is needed, for images may be large."""
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _check_holes(image: Image.Image, data: bytes) -> None:
    """ValueError on zeros in a row such as no encoder writes, but an unfinished download holds.

    These formats have no checksums. Flat images have the longest runs: AVIF 16 bytes, JPEG 2000
    under 200, WebP one for 10,000 pixels.
    """
    most = {"AVIF": 512, "JPEG2000": 512, "WEBP": 512 + image.width * image.height // 2000}
    if image.format not in most:
        return
    zeros = bytes(most[image.format])
    for name in BLOCKS:  # cameras leave room in theirs
        data = data.replace((image.info.get(name) or b"").removeprefix(b"Exif\0\0"), b"")
    if zeros in data:
        raise ValueError(f"a hole of {len(zeros)} bytes or more")


def _check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    if width * height > most:
        raise ValueError(f"{width} × {height} pixels")
