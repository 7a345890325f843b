"""Image formats: those that Pillow decodes by itself, and those that need a plugin."""

from functools import cache
from importlib import import_module

from PIL import Image, features

#: Suffixes of formats that every Pillow build decodes.
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

#: Suffix of a format that needs an optional decoder -> how to get it.
OPTIONAL = {
    **dict.fromkeys((".heic", ".heif"), "pip install pillow-heif"),
    **dict.fromkeys((".jxl",), "pip install pillow-jxl-plugin"),
    **dict.fromkeys((".avif",), "install Pillow 11.3 or later with AVIF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "install a Pillow with OpenJPEG"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "develop raw photographs first"),
}

#: Pillow plugin -> the suffixes that it adds.
_PLUGINS = {"pillow_heif": (".heic", ".heif"), "pillow_jxl": (".jxl",)}

#: Signatures of formats that need a plugin: offset, bytes, and a suffix of the format.
_BEGINNINGS = (
    *((4, b"ftyp" + brand, ".heic") for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypavif", ".avif"),
    (0, b"\xff\x0a", ".jxl"),
    (0, b"\0\0\0\x0cJXL ", ".jxl"),
    (0, b"\0\0\0\x0cjP  ", ".jp2"),
)


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of all readable formats, after loading the installed plugins."""
    found = set(SUFFIXES)
    for module, suffixes in _PLUGINS.items():
        if _load_plugin(module):
            found.update(suffixes)
    if "avif" in features.modules and features.check_module("avif"):
        found.add(".avif")
    if features.check_codec("jpg_2000"):
        found.update((".jp2", ".j2k", ".jpx"))
    return frozenset(found)


def _load_plugin(module: str) -> bool:
    """Load a Pillow plugin; return whether it is installed."""
    try:
        plugin = import_module(module)
    except ImportError:
        return False
    Image.init()
    if module == "pillow_heif":
        plugin.register_heif_opener()
    return True


def install_advice(suffix: str) -> str | None:
    """Return how to get the decoder for a suffix; None if it is installed, or there is no such image format."""
    return None if suffix in readable_suffixes() else OPTIONAL.get(suffix)


def install_advice_by_content(beginning: bytes) -> str | None:
    """Return which decoder a file needs, by its first bytes; None if the format is not known."""
    for offset, expected, suffix in _BEGINNINGS:
        if beginning[offset : offset + len(expected)] == expected and (needed := install_advice(suffix)):
            return f"{suffix[1:].upper()}: {needed}"
    return None
