"""Integrity check of `torch.save` files, which are zip archives: torch itself verifies no checksums."""

import zipfile
from pathlib import Path

from ropevit.weights.errors import first_line

#: Bits of an entry's general-purpose flags that `torch.save` sets or may set: a data descriptor, names in UTF-8.
FLAGS = 0x0808

#: Bit of an entry's external attributes that makes torch take a record for a directory, and read nothing.
DIRECTORY = 0x10


def archive_damage(path: Path) -> str | None:
    """Verify the checksums of an archive, and that its directory is one that `torch.save` writes.

    Args:
        path: A zip archive.

    Returns:
        A description of the damage; None if the archive is intact.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _directory_fault(archive) or _wrong_record(archive)
    except Exception as error:  # a damaged archive can raise anything: see zipfile, zlib, struct
        return first_line(error)


def _directory_fault(archive: zipfile.ZipFile) -> str | None:
    """Return a fault of the directory that Python's reader accepts but torch interprets differently."""
    records = archive.infolist()
    names = [record.filename.lower() for record in records]  # torch finds names in either case
    if not records or len(set(names)) < len(names):
        return "its directory is empty or lists a record twice"
    if archive.comment or min(record.header_offset for record in records):
        return "there are bytes before or after it"
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & ~FLAGS:
            return f"{record.filename} is compressed or encrypted, as torch.save never does"
        if record.external_attr & DIRECTORY and not record.is_dir():
            return f"{record.filename} is marked as a directory"
    return None


def _wrong_record(archive: zipfile.ZipFile) -> str | None:
    """Return the first record with a wrong checksum."""
    wrong = archive.testzip()
    return f"the checksum of {wrong} is wrong" if wrong else None
