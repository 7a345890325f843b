import json
import logging
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data import tar_index as tar_index_module
from ropevit.data.imagenet import imagenet_classes
from ropevit.data.loading import train_batches
from ropevit.data.order import TrainOrder
from ropevit.data.shards import expand
from ropevit.data.sources import FileSource, open_source


def png(number):
    file = BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "png")
    return file.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def samples(numbers, classes=3):
    for number in numbers:
        yield f"{number:03d}.png", png(number)
        yield f"{number:03d}.cls", str(number % classes).encode()


def enlarged(raw, size):
    """Change the length of the first member of a tar, in base 256 as GNU tar does."""
    head = bytearray(raw[:512])
    head[124:136] = b"\x80" + size.to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + raw[512:]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROPEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path):
    for shard, numbers in enumerate(np.split(np.arange(21), [6, 12, 18])):
        write(tmp_path / "set" / f"some-train-{shard:02d}.tar", samples(numbers))
    write(tmp_path / "set" / "some-val-00.tar", samples(range(4)))
    return tmp_path / "set"


@pytest.fixture
def server(shards):
    """Serves the shards, and lists what was asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shards))) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", asked
        served.shutdown()
        thread.join()


def test_samples_are_ordered_by_shard_and_have_their_labels(shards):
    source, val = open_source(str(shards), "train"), open_source(str(shards), "val")
    assert (len(source), source.blocks, source.classes) == (21, (6, 6, 6, 3), ("0", "1", "2"))
    assert (len(val), source.name) == (4, "set/train")
    assert isinstance(source, FileSource)
    for index in range(21):
        image, label = source.read(index)
        assert (image.getpixel((3, 3)), label) == ((index, 0, 0), index % 3)
        assert source.describe(index) == f"{shards}/some-train-{index // 6:02d}.tar:{index:03d}.png"


def test_the_order_has_every_sample_once_and_reads_few_shards_at_a_time(shards):
    source = open_source(str(shards), "train")
    order = TrainOrder(len(source), 7, 0, blocks=source.blocks)

    def numbers(first):
        batches = train_batches(source, tensor, order, first, 6, workers=0)
        return [batch.images[:, 0, 0, 0].tolist() for batch in batches]

    everything = numbers(0)
    assert sorted(sum(everything[:3], [])) == sorted(sum(everything[3:], [])) == list(range(21))  # noqa: RUF017
    assert numbers(4) == everything[4:]


def tensor(image):
    return torch.from_numpy(np.array(image)).movedim(-1, 0)


def test_json_labels_and_folders_are_read_and_other_members_ignored(tmp_path):
    members = [
        ("deep/er/a.JPG", png(1)),
        ("deep/er/a.json", json.dumps({"label": 1, "text": "x"}).encode()),
        ("deep/er/b.seg.png", png(9)),
        ("b.jpeg", png(2)),
        ("b.cls", b"00\n"),
        ("b.json", b'{"label": 7}'),
        ("about.json", b'["nothing"]'),
        ("notes.txt", b"nothing"),
    ]
    write(tmp_path / "train.tar", members)
    source = open_source(str(tmp_path), "train")
    assert [source.describe(index).split(":")[1] for index in range(2)] == ["deep/er/a.JPG", "b.jpeg"]
    assert source.labels.tolist() == [1, 0]


def test_1000_labels_are_those_of_imagenet(tmp_path):
    write(tmp_path / "train.tar", (pair for n in range(1000) for pair in ((f"{n}.png", b"x"), (f"{n}.cls", b"%d" % n))))
    assert open_source(str(tmp_path / "train.tar"), "train").classes == imagenet_classes()


@pytest.mark.parametrize("error", [None, NotImplementedError, RuntimeError, UnicodeDecodeError])
def test_the_index_is_cached_until_the_shard_changes(error, shards, monkeypatch, caplog, cache):
    def broken(_):
        raise error("utf-8", b"", 0, 1, "odd") if error is UnicodeDecodeError else error("odd")

    scanned = []
    scan = tar_index_module.scan_tar
    monkeypatch.setattr(tar_index_module, "scan_tar", lambda path: scanned.append(path.name) or scan(path))
    first = open_source(str(shards), "train")
    assert len(scanned) == 4
    second = open_source(str(shards), "train")
    assert len(scanned) == 4
    assert [first.describe(i) for i in range(21)] == [second.describe(i) for i in range(21)]
    write(shards / "some-train-03.tar", samples(range(18, 22)))
    assert len(open_source(str(shards), "train")) == 22
    assert scanned[4:] == ["some-train-03.tar"]
    for kept in (cache / "shards").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    if error:
        monkeypatch.setattr(tar_index_module.np, "load", broken)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(str(shards), "train")) == 22
    assert "the cached index is unreadable" in caplog.text


@pytest.mark.parametrize(
    "arrays",
    [
        {"offsets": np.array([0])},
        {"labels": np.array([-1] * 6)},
        {"keys_ends": np.array([9] * 6)},
        {"offsets": np.array([10**9] * 6)},
        {"sizes": np.array([])},
        {"labels": np.array(list("abcdef"))},
    ],
)
def test_an_inconsistent_cached_index_is_rebuilt(arrays, shards, cache, caplog):
    first = open_source(str(shards / "some-train-00.tar"), "train")
    (kept,) = (cache / "shards").iterdir()
    with np.load(kept) as found:
        changed = dict(found) | arrays
    np.savez(kept, **changed)
    again = open_source(str(shards / "some-train-00.tar"), "train")
    assert [first.raw(index) for index in range(6)] == [again.raw(index) for index in range(6)]
    assert "indexing" in caplog.text


def test_images_with_more_than_one_dot_in_their_names_are_skipped_with_a_warning(tmp_path, caplog):
    dotted = [("photo4.2024.jpg", png(1)), ("photo4.2024.cls", b"0"), ("b.seg.png", png(2))]
    write(tmp_path / "train.tar", [*dotted, ("b.png", png(3)), ("b.cls", b"0")])
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert len(open_source(str(tmp_path), "train")) == 1
        assert "skipped 1 images" in caplog.text
        assert "(a key ends at the first): photo4.2024.jpg" in caplog.text
    write(tmp_path / "train.tar", dotted)
    with pytest.raises(
        ValueError, match=r"holds no images \(with more than one dot in their names: photo4.2024.jpg, b"
    ):
        open_source(str(tmp_path), "train")


def sparse(path, name):
    """Write a tar of a few kB with a member of 30 GB, as GNU tar stores files with holes."""
    member = tarfile.TarInfo(name)
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:482] = b"%011o\0%011o\0" % (30 * 2**30, 0) + b"\0" * 72
    head[483:495] = b"%011o\0" % (30 * 2**30)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    path.write_bytes(bytes(head) + bytes(1024))


@pytest.mark.parametrize("name", ["a.cls", "a.json", "a.png"])
def test_sparse_members_raise(name, tmp_path):
    sparse(tmp_path / "train.tar", name)
    with pytest.raises(ValueError, match=rf"train.tar: {name} is a sparse file, which is not supported"):
        open_source(str(tmp_path), "train")


def test_a_far_too_long_label_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index_module, "LONGEST_LABEL", 9)
    write(tmp_path / "train.tar", [("a.png", png(1)), ("a.cls", b"0" * 10)])
    with pytest.raises(ValueError, match=r"train.tar: a.cls is a label of 10 bytes, which is not supported"):
        open_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:3000], r"is damaged or not an uncompressed tar \(unexpected end of data\)"),
        (lambda raw: raw[:1024] + b"x" * 512 + raw[1536:], "is damaged at byte 1024"),
        (lambda raw: b"x" * 512 + raw[512:], "is damaged or not an uncompressed tar"),
        (lambda raw: raw[:0], r"is damaged or not an uncompressed tar \(empty file\)"),
        (lambda raw: b"\x1f\x8b" + raw, "is damaged or not an uncompressed tar"),
        (lambda raw: enlarged(raw, 2**87), r"is damaged or not an uncompressed tar \(cannot fit 'int'"),
    ],
    ids=["cut", "middle", "head", "empty", "packed", "huge"],
)
def test_a_damaged_shard_is_named(shards, damage, message):
    path = shards / "some-train-01.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"some-train-01.tar {message}.*; download or create it again") as error:
        open_source(str(shards), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], r"found no label \(.cls, .json\) for a; every sample needs both"),
        ([("a.cls", b"0")], r"found no image \(.jpg, .jpeg, .png, .webp\) for a"),
        ([("a.png", b"x"), ("a.cls", b"cat")], r"a.cls has the label b'cat'; expected a whole number"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "has the label -1"),
        ([("a.png", b"x"), ("a.json", b'{"label": "cat"}')], "has the label 'cat'"),
        ([("a.png", b"x"), ("a.json", b"[" * 100_000 + b"]" * 100_000)], r"a.json has the label b'\[\[\[\["),
        ([("a.png", b"x"), ("a.cls", b"5000000")], "label 5000000; expected a whole number from 0, below 100000"),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"0")], "two images of a;"),
        ([("a.txt", b"x")], "holds no images"),
        (
            [("a.png", b"x"), ("a.cls", b"0"), ("b.png", b"x"), ("b.cls", b"7")],
            r"go up to 7 \(.*:b.png\), but class 1 has no image",
        ),
    ],
)
def test_samples_without_a_usable_label_are_named(tmp_path, members, message):
    write(tmp_path / "train-0.tar", members)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path), "train")


def test_patterns_are_expanded():
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{0..1}/b-{2..3}.tar") == ["0/b-2.tar", "0/b-3.tar", "1/b-2.tar", "1/b-3.tar"]
    assert expand("whole.tar") == ["whole.tar"]
    for wrong, message in (
        ("a-{x,y}.tar", "expected ranges"),
        ("a-{3..1}.tar", "0 shards"),
        ("{0..999999}.tar", "1 to"),
    ):
        with pytest.raises(ValueError, match=message):
            expand(wrong)


def test_a_split_uses_the_shards_named_after_it(shards, tmp_path):
    data = f"{shards}/some-train-{{00..03}}.tar::{shards}/some-val-00.tar"
    assert (len(open_source(data, "train")), len(open_source(data, "val"))) == (21, 4)
    write(tmp_path / "other/train/0.tar", samples(range(3)))
    write(tmp_path / "other/validation/0.tar", samples(range(2)))
    assert [len(open_source(str(tmp_path / "other"), split)) for split in ("train", "val")] == [3, 2]
    with pytest.raises(ValueError, match=r"found no val shards in .*; expected val or test"):
        open_source(f"{shards}/some-train-{{00..03}}.tar", "val")
    with pytest.raises(ValueError, match=r"no shard at .*train-04.tar; check the path"):
        open_source(f"{shards}/some-train-{{00..04}}.tar", "train")
    with pytest.raises(ValueError, match="expected an http or https address"):
        open_source("s3://some/train-0.tar", "train")


def test_remote_shards_are_downloaded_once_by_concurrent_processes(server):
    address, asked = server
    data = f"{address}/some-train-{{00..03}}.tar"
    with ThreadPoolExecutor() as pool:
        sources = list(pool.map(lambda _: open_source(data, "train"), range(4)))
    assert len(asked) == 4
    assert all(len(source) == 21 for source in sources)
    assert sources[0].read(20)[0].getpixel((0, 0)) == (20, 0, 0)
    assert len(open_source(data, "train")) == 21
    assert len(asked) == 4


def test_a_failed_download_is_named_and_finished_ones_are_kept(server, shards, cache):
    address, asked = server
    data = f"{address}/some-train-{{00..03}}.tar"
    moved = (shards / "some-train-03.tar").rename(shards / "away.tar")
    with pytest.raises(ValueError, match=r"cannot download http://.*-03.tar \(HTTP Error 404.*\); check the address"):
        open_source(data, "train")
    moved.rename(shards / "some-train-03.tar")
    done = len(list((cache / "fetched").glob("*.tar")))
    before = len(asked)
    assert len(open_source(data, "train")) == 21
    assert len(asked) - before == 4 - done
    assert done > 0
    assert not list((cache / "fetched").glob("*.part"))


def test_an_incomplete_download_is_not_used(server, cache, monkeypatch):
    address, _ = server
    send = SimpleHTTPRequestHandler.copyfile
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", lambda _, source, out: out.write(source.read(1000)))
    with pytest.raises(ValueError, match=r"got 1000 of \d+ bytes of http://.*; run again"):
        open_source(f"{address}/some-val-00.tar", "val")
    assert not list((cache / "fetched").glob("*.tar"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", send)
    assert len(open_source(f"{address}/some-val-00.tar", "val")) == 4


def test_a_damaged_download_is_removed(server, shards):
    address, _ = server
    whole = (shards / "some-val-00.tar").read_bytes()
    (shards / "some-val-00.tar").write_bytes(whole[:3000])
    with pytest.raises(ValueError, match=r"is damaged .*\(from http://.*; its copy is removed\)"):
        open_source(f"{address}/some-val-00.tar", "val")
    (shards / "some-val-00.tar").write_bytes(whole)
    assert len(open_source(f"{address}/some-val-00.tar", "val")) == 4


def test_an_unreachable_server_is_a_one_line_error():
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:9/train-0.tar \(.*refused.*\)") as error:
        open_source("http://127.0.0.1:9/train-0.tar", "train")
    assert "\n" not in str(error.value)
