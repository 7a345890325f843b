import numpy as np
import pytest
from PIL import Image

from ropevit.data.check import check
from ropevit.data.images import read_image

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("8 in 16.png", (RAMP * 255).round().astype(np.uint16)),
        ("12 in 16.png", (RAMP * 4095).round().astype(np.uint16)),
        ("16.png", (RAMP * 65535).round().astype(np.uint16)),
        ("16.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("8 in 32.tif", (RAMP * 255).round().astype(np.int32)),
        ("16 in 32.tif", (RAMP * 65535).round().astype(np.int32)),
        ("hounsfield.tif", (RAMP * 4095 - 1024).round().astype(np.int32)),
        ("20 in 32.tif", (RAMP * 1e6).round().astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32)),
        ("float to 1000.tif", (RAMP * 1000).astype(np.float32)),
        ("negative.tif", (RAMP * 2 - 1).astype(np.float32)),
    ],
)
def test_a_ramp_of_any_depth_becomes_a_ramp_from_black_to_white(name, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / name)
    read = np.asarray(read_image(tmp_path / name))[..., 0]
    assert np.abs(read - 255 * RAMP).max() <= 1.01


def test_16_bit_values_keep_their_upper_8_bits(tmp_path):
    values = np.array([[0, 255, 256, 4096, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 16, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_values_raise(value, tmp_path):
    pixels = RAMP.astype(np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read as an image \(holds values that are not finite"):
        read_image(tmp_path / "a.tif")


def test_the_check_reports_bit_depths_and_mixtures_of_them(tmp_path):
    files = {
        "a/1.png": RAMP * 4000,
        "a/2.png": RAMP * 3000,
        "b/1.png": RAMP * 3500,
        "b/2.png": RAMP * 9000,
        "b/black.png": RAMP * 0,
    }
    for name, pixels in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / name)
    Image.fromarray(RAMP.astype(np.float32) * 7).save(tmp_path / "a/3.tif")
    report = check(str(tmp_path))
    found = {(finding.kind, finding.file.rpartition("/")[2]): finding.detail for finding in report.findings}
    assert {kind for kind, _ in found} == {"bit depth", "mixed bit depth", "stretched"}
    assert found["mixed bit depth", "2.png"] == "read as 16 bits, 3 others as 12 bits"
    assert found["stretched", "3.tif"] == "F, values 0 to 7, read from the lowest to the highest"
    assert "mixed bit depth" not in {kind for kind, name in found if name == "black.png"}
    assert not report.clean
