"""Image files: upright, whole or refused, decoded no finer than a crop needs."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from hpe_lib.data import images
from hpe_lib.data.augment import Augmentation
from hpe_lib.data.images import ImageFiles, decode_image, read_image
from hpe_lib.data.people import People
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import VISIBLE
from hpe_lib.workbook.artifacts import BadInput


def test_a_truncated_real_photograph(test_data, tmp_path):
    whole = (test_data / "lspet" / "images" / "im00001.jpg").read_bytes()
    for share in (0.3, 0.9, 0.999):
        (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BadInput, match="cut.jpg"):
            read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_images_are_what_opencv_reads_in_the_order_of_rgb(tmp_path, ending):
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), (163, 121))
    cv2.imwrite(str(tmp_path / f"a{ending}"), noise)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / f"a{ending}")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(read_image(tmp_path / f"a{ending}"), expected)


def test_images_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 4, 3), (0, 0, 255), np.uint8))
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


# ---- bytes behind the end, and an end in the headers


@pytest.fixture
def jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def test_bytes_behind_a_complete_jpeg_do_no_harm(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    for film in (bytes(10_000), 200 * b"\xff\xda\0\x08"):  # cameras put films there
        (tmp_path / "b.jpg").write_bytes(jpeg + film)
        assert np.array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


def test_a_thumbnail_s_end_is_not_the_image_s(tmp_path, jpeg):
    header = (
        b"\xff\xe1" + (2 + len(jpeg)).to_bytes(2, "big") + jpeg
    )  # an APP1 segment that holds a whole JPEG
    (tmp_path / "whole.jpg").write_bytes(jpeg[:2] + header + jpeg[2:])
    assert read_image(tmp_path / "whole.jpg").shape == (64, 48, 3)
    (tmp_path / "cut.jpg").write_bytes(jpeg[:2] + header + jpeg[2:-400])
    with pytest.raises(BadInput, match="Premature end"):
        read_image(tmp_path / "cut.jpg")


def test_nothing_is_said_beside_the_refusal(tmp_path, jpeg, capfd):
    whole = cv2.imencode(".bmp", np.zeros((64, 48, 3), np.uint8))[1].tobytes()
    (tmp_path / "half.bmp").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput):
        read_image(tmp_path / "half.bmp")
    with pytest.raises(BadInput):
        decode_image("hole.jpg", holed(jpeg))
    assert capfd.readouterr() == ("", "")


def holed(jpeg):
    """Its second half zeros, but for the end: a download into a file that was made large enough
    first."""
    return jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2 - 2) + jpeg[-2:]


@pytest.mark.parametrize("step", [1, 8])
def test_a_jpeg_s_damage_is_refused(jpeg, step):
    scan = jpeg.index(b"\xff\xda")
    middle = (scan + len(jpeg)) // 2
    for damaged in (
        holed(jpeg),
        jpeg[:middle] + jpeg[-2:],
        jpeg[:middle] + bytes(300) + jpeg[middle + 300 :],
        jpeg[:middle] + jpeg[middle + 200 :],
        jpeg[:middle] + b"\xff\xd9" + jpeg[middle:],
        jpeg[:-2],
        jpeg[:scan] + jpeg[-2:],
    ):
        with pytest.raises(BadInput, match=r"^a.jpg: found \d+ bytes: .*, expected a whole JPEG"):
            decode_image("a.jpg", damaged, step)


def test_a_remark_on_a_jpeg_s_header_is_no_damage(jpeg):
    """Samsung's phones write a scan's header that libjpeg remarks upon; the pixels are whole."""
    scan = jpeg.index(b"\xff\xda")
    last = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big") - 2
    odd = jpeg[:last] + b"\x00" + jpeg[last + 1 :]
    with pytest.raises(ValueError, match="SOS"):
        images.simplejpeg.decode_jpeg(odd)
    assert (decode_image("a.jpg", odd) == decode_image("a.jpg", jpeg)).all()


def with_odd_header(jpeg, kind):
    """The JPEG with one value in its header that libjpeg remarks upon."""
    odd = bytearray(jpeg)
    if kind == "SOS":
        odd[jpeg.index(b"\xff\xda") + 12] = 0
    elif kind == "JFIF":
        odd[jpeg.index(b"JFIF\0") + 5] = 2
    elif kind == "ICC":
        odd[2:2] = b"\xff\xe2\x00\x12ICC_PROFILE\0\x01\x00ab"
    else:
        odd[2:20] = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x07"  # in JFIF's place
    return bytes(odd)


@pytest.mark.parametrize("kind", ["SOS", "JFIF", "ICC", "Adobe"])
def test_a_hole_behind_a_remark_is_seen(jpeg, kind):
    odd = with_odd_header(jpeg, kind)
    with pytest.raises(ValueError, match="(?i)warning|Unknown|Invalid|bad"):
        images.simplejpeg.decode_jpeg(odd)
    assert (decode_image("a.jpg", odd) == decode_image("a.jpg", jpeg)).all()
    for damaged in (holed(odd), odd[: len(odd) // 2] + b"\xff\xd9"):
        with pytest.raises(BadInput, match="expected a whole JPEG"):
            decode_image("a.jpg", damaged)


@pytest.mark.parametrize("progressive", [False, True])
def test_four_colours_stay_four_whatever_adobe_s_segment_says(progressive):
    four = picture(Image.fromarray(CORNER).convert("CMYK"), "JPEG", progressive=progressive)
    odd = bytearray(four)
    odd[four.index(b"Adobe") + 11] = 7  # as 2, YCCK
    usual = bytearray(four)
    usual[four.index(b"Adobe") + 11] = 2
    assert (decode_image("a", bytes(odd)) == decode_image("a", bytes(usual))).all()


@pytest.mark.parametrize(
    "before",
    [2 * (b"\xff\xe2\xfd\xe8" + bytes(64998)), b"\xff\xfe\x00\x10Exif\0\0comment!"],
    ids=["far behind", "in a comment"],
)
def test_a_turn_is_found_wherever_its_segment_is(before):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = picture(Image.fromarray(CORNER), "JPEG", exif=exif, quality=95)
    expected = decode_image("a.jpg", turned)
    assert expected.shape == (60, 40, 3)
    assert (decode_image("a.jpg", turned[:2] + before + turned[2:]) == expected).all()


def test_a_jpeg_of_many_scans_and_a_file_of_gigabytes_are_not_read(tmp_path, jpeg):
    scan = jpeg.index(b"\xff\xda")
    with pytest.raises(BadInput, match="102 scans"):
        decode_image("a.jpg", jpeg[:scan] + 101 * jpeg[scan : scan + 14] + jpeg[scan:])
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(BadInput, match="3,221,225,472 bytes, expected an image of at most"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["behind the start", "behind the scan"])
def test_a_marker_without_a_length_hides_no_scans(jpeg, place):
    scan = jpeg.index(b"\xff\xda")
    many = jpeg[:scan] + 101 * (jpeg[scan : scan + 14] + b"\xff\x01") + jpeg[scan:]
    if place == "behind the start":
        many = jpeg[:2] + b"\xff\x01" + many[2:]
    with pytest.raises(BadInput, match="102 scans"):
        decode_image("a.jpg", many)


def test_16_bit_grey_keeps_what_8_bits_say_of_transparency_and_of_white():
    ramp = (np.arange(256, dtype=np.uint16) << 8).reshape(16, 16)
    grey = picture(Image.fromarray(ramp), "PNG", transparency=0x1000)
    found = decode_image("a.png", grey)
    assert (found[1, 0] == 255).all() and (found[2, 0] == 0x20).all()
    dark = picture(Image.fromarray(ramp), "TIFF", tiffinfo={262: 0})
    light = picture(Image.fromarray(ramp), "TIFF", tiffinfo={262: 1})
    assert (decode_image("a.tif", dark) == 255 - decode_image("a.tif", light)).all()


def test_a_grey_tiff_of_12_bits_is_as_bright_as_one_of_8():
    """Two pixels, 3000 and 1500 of 4095, packed into three bytes; Pillow writes no such file."""
    pixels = bytes([0xBB, 0x85, 0xDC])
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = b"II*\0" + struct.pack("<I", 8 + len(pixels) + 1)
    tiff = start + pixels + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode_image("a.tif", tiff)[0, :, 0].tolist() == [3000 * 256 // 4096, 1500 * 256 // 4096]


def test_a_jpeg_whose_sampling_is_unknown_is_left_to_pillow(jpeg, monkeypatch):
    def unknown(data):
        raise ValueError("Could not determine subsampling level")

    expected = decode_image("a", jpeg)
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg_header", unknown)
    assert np.abs(decode_image("a", jpeg).astype(int) - expected).max() <= 1
    for cut in (jpeg[:-300], jpeg[:13]):
        with pytest.raises(BadInput, match="(?i)truncated"):
            decode_image("a", cut)


def test_real_photographs_are_whole(test_data):
    """A sample of those that were all read once: no libjpeg warning in any of 11,188, and OpenCV's
    pixels."""
    for kind, every in (("mpii", 40), ("lsp", 400), ("lspet", 900)):
        for path in sorted((test_data / kind / "images").glob("*.jpg"))[::every]:
            expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            assert (read_image(path) == expected).all()


def picture(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


CORNER = np.zeros((40, 60, 3), np.uint8)


CORNER[:20, :20] = 240, 120, 10  # and so an image is not the same turned or mirrored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_images_are_upright(kind, orientation):
    """AVIF's own turn (irot, imir), too, which Pillow writes for the orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    packed = picture(Image.fromarray(CORNER), kind, exif=exif, quality=95)
    for step in (1, 2):
        found = decode_image("a", packed, step)
        expected = {
            1: CORNER,
            2: CORNER[:, ::-1],
            3: CORNER[::-1, ::-1],
            4: CORNER[::-1],
            5: CORNER.transpose(1, 0, 2),
            6: np.rot90(CORNER, -1),
            7: np.rot90(CORNER, 2).transpose(1, 0, 2),
            8: np.rot90(CORNER),
        }[orientation][::step, ::step]
        assert found.shape == expected.shape and found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).mean() < 6


def test_a_turned_jpeg_may_be_as_large_as_one_that_is_upright(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = picture(Image.new("RGB", (40, 30)), "JPEG", exif=exif)
    assert decode_image("a", turned, 2).shape == (20, 15, 3)
    with pytest.raises(BadInput, match="40 × 30 pixels"):
        decode_image("a", picture(Image.new("CMYK", (40, 30)), "JPEG", exif=exif), 2)


@pytest.mark.parametrize("name", ["xmp", "icc_profile"])
def test_a_text_in_a_png_is_no_hole(name):
    text = PngImagePlugin.PngInfo()
    text.add_text(name, "mine")
    assert decode_image("a", picture(Image.new("RGB", (4, 3)), "PNG", pnginfo=text)).any() == 0


def test_a_broken_exif_block_turns_nothing(jpeg):
    for block in (b"Exif\0\0", b"Exif\0\0nothing of the sort", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        told = jpeg[:2] + b"\xff\xe1" + (2 + len(block)).to_bytes(2, "big") + block + jpeg[2:]
        assert (decode_image("a", told) == decode_image("a", jpeg)).all()


def test_pixels_of_other_kinds():
    colour = Image.fromarray(CORNER)
    deep = np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27
    grey = np.asarray(colour.convert("L"))
    clear = colour.convert("RGBA")
    clear.putalpha(
        Image.fromarray(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8)[None].repeat(40, 0))
    )
    laid = CORNER.copy()
    laid[:, 30:] = 255
    first = {"save_all": True, "append_images": [colour.rotate(180)]}
    for packed, expected in (
        (picture(colour.convert("L"), "PNG"), grey[..., None]),
        (picture(colour.convert("L"), "JPEG", quality=100), grey[..., None]),
        (picture(Image.fromarray(deep), "PNG"), (deep >> 8)[..., None]),
        (picture(Image.fromarray(deep), "TIFF"), (deep >> 8)[..., None]),
        (picture(Image.fromarray(deep), "PPM"), (deep >> 8)[..., None]),
        (picture(colour.convert("P"), "PNG"), CORNER),
        (picture(colour.quantize(4), "GIF", **first), CORNER),
        (picture(colour, "PNG", **first), CORNER),
        (picture(colour, "WEBP", lossless=True, **first), CORNER),
        (picture(clear, "PNG"), laid),
        (picture(clear, "WEBP", lossless=True), laid),
        (picture(colour.convert("CMYK"), "JPEG", quality=100), CORNER),
        (picture(colour.convert("CMYK"), "TIFF"), CORNER),
    ):
        found = decode_image("a", packed)
        assert found.shape == CORNER.shape and found.flags.writeable
        assert np.abs(found.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    "packed",
    [
        picture(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"),
        picture(Image.fromarray(np.zeros((9, 9), np.int32)), "TIFF"),
        picture(Image.fromarray(CORNER), "EPS"),
        picture(Image.fromarray(CORNER), "PNG")[:-20],
        picture(Image.fromarray(CORNER), "PNG").replace(b"IDAT\x78", b"IDAT\x79"),
        picture(Image.fromarray(CORNER), "AVIF")[:-20],
        picture(Image.fromarray(CORNER), "WEBP")[:-20],
        b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(500),
    ],
)
def test_images_that_cannot_be_used(packed, capfd):
    with pytest.raises(BadInput, match="^a.img: found .*, expected a whole JPEG") as error:
        decode_image("a.img", packed)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_an_image_of_too_many_pixels_is_not_decoded(jpeg, side):
    sides = side.to_bytes(4, "big") * 2
    png = picture(Image.new("1", (8, 8)), "PNG")
    head = b"IHDR" + sides + png[24:29]
    place = jpeg.index(b"\xff\xc0") + 5
    for huge in (
        png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:],
        jpeg[:place] + side.to_bytes(2, "big") * 2 + jpeg[place + 4 :],
    ):
        before = time.perf_counter()
        with pytest.raises(BadInput, match=f"{side} × {side} pixels|{side * side} pixels"):
            decode_image("a", huge)
        assert time.perf_counter() - before < 1


def test_a_jpeg_2000_may_be_half_as_large(monkeypatch):
    """Its decoder takes 37 bytes a pixel, twice as many as the others."""
    monkeypatch.setattr(images, "MAX_JPEG2000_PIXELS", 99)
    scene = Image.fromarray(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(BadInput, match="10 × 10 pixels, expected .*JPEG2000: 20"):
        decode_image("a", picture(scene, "JPEG2000"))
    assert decode_image("a", picture(scene.crop((0, 0, 9, 9)), "JPEG2000")).shape == (9, 9, 3)


# ---- large photographs: decoded no finer than needed


DOTS = 3  # joints that are painted, one a channel


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Six people on JPEGs of 1001 × 763 px, the last by the image's edge.

    Their first three joints are soft dots.
    """
    root = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    paths = []
    side = np.array([256.0, 350, 500, 530, 800, 500])
    center = np.full((6, 2), (500.0, 380.0))
    center[5] = 930, 60
    joints = center[:, None] + side[:, None, None] * random.uniform(-0.25, 0.25, (6, 16, 2))
    joints[5, :DOTS] = (850, 100), (900, 50), (940, 130)
    across, down = np.meshgrid(np.arange(1001), np.arange(763))
    for row in range(6):
        dots = [
            160 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * (0.03 * side[row]) ** 2))
            for x, y in joints[row, :DOTS]
        ]
        texture = cv2.resize(
            random.integers(0, 60, (25, 33), np.uint8), (1001, 763), interpolation=cv2.INTER_CUBIC
        )
        image = np.stack(dots, -1) + texture[..., None]
        paths.append(root / f"{row}.jpg")
        cv2.imwrite(
            str(paths[-1]), image.astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97]
        )
    return People(
        dataset="made",
        keys=np.arange(6).astype(str),
        joints=joints,
        visibility=np.full((6, 16), VISIBLE, np.int8),
        normaliser=side / 10,
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=ImageFiles(paths, "made images"),
        center=center,
        side=side,
        body=side / 1.25,
    )


def drawn_frames(people, times=3, image_size=128):
    """(row, an augmented frame), among them the extremes of §3.1."""
    random = np.random.default_rng(1)
    for row in range(len(people)):
        plain = people.frame(row, image_size)
        extremes = [plain.augmented(scale, angle) for scale in (0.7, 1.3) for angle in (-40, 45)]
        yield from (
            (row, frame)
            for frame in extremes + [Augmentation()(plain, random) for _ in range(times)]
        )


def check_dots(crop, exact, frame, joints):
    """Each channel's dot has its middle where it has it in the crop of the whole photograph."""
    y, x = np.mgrid[: frame.image_size, : frame.image_size]
    for channel, (px, py) in enumerate(frame.to_crop(joints)):
        near = np.hypot(x - px, y - py) < 0.05 * frame.image_size * frame.body_in_crop / 102.4
        values = [image[..., channel].astype(float) for image in (crop, exact)]
        weights = [near * (value - np.percentile(value[near], 5)).clip(0) for value in values]
        middle = [
            np.array([(weight * axis).sum() for axis in (x, y)]) / weight.sum()
            for weight in weights
        ]
        assert np.hypot(*(middle[0] - middle[1])) < 0.1  # px


def test_a_jpeg_much_finer_than_the_crop_is_decoded_coarser(large, monkeypatch):
    steps = []
    read = read_image
    monkeypatch.setattr(
        images, "read_image", lambda path, step=1: steps.append(step) or read(path, step)
    )
    for row, frame in drawn_frames(large):
        crop = large.images.crop(row, frame)
        ratio = frame.side / 128
        assert steps.pop() == (1 if ratio < 2 else 2 if ratio < 4 else 4 if ratio < 8 else 8)
        exact = frame.crop(large.images[row])
        steps.clear()
        assert np.abs(crop.astype(int) - exact).mean() < 1
        check_dots(crop, exact, frame, large.joints[row, :DOTS])
    assert read(large.images.paths[0], 4).shape == (191, 251, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_as_true_when_it_is_decoded_coarser(tmp_path, orientation):
    """Its sides are no multiple of 8: the last coarse pixels are filled up."""
    y, x = np.mgrid[:1601, :2001]
    spot = 255 * np.exp(-((x - 700) ** 2 + (y - 500) ** 2) / (2 * 40**2))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(spot.astype(np.uint8)).convert("RGB").save(path, exif=exif, quality=95)
    found = images.ImageFiles([path], "one")
    frame = Frame((900.0, 900.0), 2048.0, 256, 1600.0)
    middles = []
    for crop in (found.crop(0, frame), frame.crop(found[0])):
        weights = crop[..., 0].astype(float) ** 2
        middles.append([(axis * weights).sum() / weights.sum() for axis in np.mgrid[:256, :256]])
    assert np.abs(np.subtract(*middles)).max() < 0.1  # crop px


def test_a_folder_is_no_image_and_is_said_to_be_one(tmp_path):
    with pytest.raises(BadInput, match="found a folder, expected an image"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadInput, match="found a pipe or a device, expected an image"):
            read_image(path)


# ---- files that end early, or have a hole

SCENE = (
    np.random.default_rng(0)
    .integers(0, 255, (12, 16, 3))
    .astype(np.uint8)
    .repeat(8, 0)
    .repeat(8, 1)
)
KINDS = {
    "PNG": {},
    "WEBP": {},
    "AVIF": {},
    "TIFF": {},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "JPEG": {"progressive": True},
}


def packed(kind, pixels=SCENE, **more):
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **KINDS[kind] | more)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [30, 60, 90])
def test_an_image_that_ends_early_is_refused(kind, percent):
    data = packed(kind)
    assert decode_image("whole", data).shape == SCENE.shape
    with pytest.raises(BadInput, match="cut: found .* bytes: .*, expected a whole JPEG"):
        decode_image("cut", data[: len(data) * percent // 100])


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_packed_tiffs_that_end_early_are_refused(packing):
    data = packed("TIFF", compression=packing)
    assert decode_image("whole", data).shape == SCENE.shape
    with pytest.raises(BadInput, match="cut: found "):
        decode_image("cut", data[: len(data) * 6 // 10])


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000", "PNG", "JPEG"])
def test_a_hole_in_the_middle_of_a_file_is_refused(kind):
    scene = np.random.default_rng(1).integers(0, 255, (160, 160, 3)).astype(np.uint8)
    data = packed(kind, scene)
    start = len(data) // 2
    size = max(1024, len(data) // 10)
    with pytest.raises(BadInput, match="holed: found .* bytes: .*, expected a whole JPEG"):
        decode_image("holed", data[:start] + bytes(size) + data[start + size :])


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000"])
def test_flat_images_and_room_for_notes_are_no_holes(kind):
    """A black image is zeros as nearly as an encoder can make them."""
    black = np.zeros((1500, 1500, 3), np.uint8)
    assert decode_image("black", packed(kind, black)).max() < 3
    exif = Image.Exif()
    exif[ExifTags.Base.MakerNote] = bytes(5000)
    notes = {} if kind == "JPEG2000" else {"exif": exif.tobytes()}
    assert decode_image("camera", packed(kind, **notes)).shape == SCENE.shape
