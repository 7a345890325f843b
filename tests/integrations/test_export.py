import collections
import itertools
import json
import math
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ropevit
from integrations.exported import tiny
from ropevit.integrations.export import MismatchError, export_onnx, export_torch, files, onnx_files
from ropevit.integrations.export.check import check, check_kept
from ropevit.integrations.export.quiet import quiet
from ropevit.integrations.export.trace import fold_constant_nodes, keep_outputs, plain_copy, trace
from ropevit.kernels import set_backend
from ropevit.models.exportable import difference
from ropevit.models.layers import resize_embedding

pytestmark = pytest.mark.usefixtures("unchecked_module")

#: Operators allowed in a model with folded constants: none of them computes shapes.
BAKED = {
    "Add", "Concat", "Conv", "Gather", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "Pad", "ReduceMean",
    "Reshape", "Slice", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def mixed(folder):
    """A ViT with a register: its model and its ONNX file."""
    model = tiny("rope_mixed", num_registers=1)
    report = export_onnx(model, folder / "mixed.onnx", classes=["a", "b", "ç"], mean=[0.1, 0.2, 0.3], std=[1, 2, 4])
    return model, report


@pytest.fixture(scope="module")
def folded(folder):
    """The same ViT at a size other than its own, with all constants folded."""
    model = tiny("rope_mixed_ape", num_registers=1)
    return model, export_onnx(model, folder / "folded.onnx", size=(40, 24), fold_constants=True)


@pytest.fixture(scope="module")
def folded_swin(folder):
    """A Swin whose last windows are padded and whose second block is shifted."""
    model = tiny("rope_axial", swin=True)
    return model, export_onnx(model, folder / "folded_swin.onnx", size=(33, 30), fold_constants=True)


@pytest.fixture(scope="module")
def program(folder):
    model = tiny("rope_mixed")
    return model, export_torch(model, folder / "mixed.pt2", classes=["a", "b", "c"])


def run(path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def agree(path, model, *shape: int) -> None:
    images = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(run(path, images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 3, 64, 24), (4, 3, 24, 136), (1, 3, 40, 40)])
def test_one_onnx_file_of_a_vit_takes_every_batch_height_and_width(mixed, shape):
    model, report = mixed
    agree(report.path, model, *shape)


@pytest.mark.parametrize("shape", [(1, 3, 20, 24), (2, 3, 24, 20), (1, 3, 20, 20), (1, 3, 4, 24), (3, 3, 65, 24)])
def test_an_onnx_file_refuses_images_that_patches_do_not_tile(mixed, shape):
    model, report = mixed
    with pytest.raises(ValueError, match="resize or pad"):
        model(torch.zeros(shape))
    with pytest.raises(Exception, match=r"size_check|Reshape"):
        run(report.path, torch.zeros(shape))
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    assert "H and W multiples of 8" in session.get_modelmeta().custom_metadata_map["input"]


@pytest.mark.full
@pytest.mark.parametrize("position", ["ape", "rope_axial", "rope_mixed_ape"])
def test_every_position_embedding_of_a_vit_is_exported_to_onnx(position, folder):
    model = tiny(position)
    report = export_onnx(model, folder / f"{position}.onnx")
    agree(report.path, model, 2, 3, 56, 16)
    assert {found.shape for found in report.differences} == {(1, 3, 32, 48), (2, 3, 16, 72), (3, 3, 48, 24)}
    assert all(found.relative < 1e-5 for found in report.differences)


class Resized(torch.nn.Module):
    """Resizes an absolute embedding from one grid to another."""

    def forward(self, embedding):
        return resize_embedding(embedding, (4, 6), 5, 3)


@pytest.mark.full  # by default a ViT without one is exported
def test_onnx_resizes_an_absolute_embedding_as_pytorch_does(folder):
    """At one size, which takes seconds less than at sizes that are not known when it is exported, as above."""
    embedding, path = torch.randn(1, 4 * 6, 2), folder / "resized.onnx"
    program = torch.export.export(Resized(), (embedding,))
    file = onnx_files.write(program, path, {"resized": (1, 5 * 3, 2)}, {})
    torch.testing.assert_close(file(embedding)[0], Resized()(embedding))
    graph = onnx.load(path)
    (resize,) = (node for node in graph.graph.node if node.op_type == "Resize")
    attributes = {found.name: onnx.helper.get_attribute_value(found) for found in resize.attribute}
    wanted = {"mode": b"cubic", "coordinate_transformation_mode": b"half_pixel", "cubic_coeff_a": -0.75}
    assert attributes.items() >= (wanted | {"antialias": 0, "exclude_outside": 0}).items()
    next(found for found in resize.attribute if found.name == "cubic_coeff_a").f = -0.5
    onnx.save(graph, path)
    with pytest.raises(AssertionError):  # the comparison feels the embedding's resize
        torch.testing.assert_close(onnx_files.runner(path)(embedding)[0], Resized()(embedding))


def test_the_metadata_of_an_onnx_file_has_the_preprocessing_and_no_local_paths(mixed):
    model, report = mixed
    assert report.inputs == {"images": ("batch", 3, "height", "width")}
    assert report.outputs == {"logits": ("batch", 3)}
    assert (report.format, report.opset, report.multiple, report.size) == ("onnx", 20, 8, report.path.stat().st_size)
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    assert [(found.name, found.shape) for found in session.get_inputs()] == [
        ("images", ["batch", 3, "height", "width"])
    ]
    assert [(found.name, found.shape) for found in session.get_outputs()] == [("logits", ["batch", 3])]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["a", "b", "ç"]
    assert (json.loads(facts["mean"]), json.loads(facts["std"])) == ([0.1, 0.2, 0.3], [1, 2, 4])
    assert json.loads(facts["config"])["position"] == model.config.position
    assert json.loads(facts["convention"]) == ropevit.rope.CONVENTION
    assert b".py" not in report.path.read_bytes()


def test_no_complex_numbers_reach_onnx(mixed):
    graph = onnx.load(mixed[1].path).graph
    assert {weight.data_type for weight in graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.full  # its constants are folded below, to the bit
@pytest.mark.parametrize("batch", [1, 5])
def test_a_vit_with_folded_constants_computes_the_same_at_its_size_for_any_batch(folded, batch):
    model, report = folded
    agree(report.path, model, batch, 3, 40, 24)


@pytest.mark.full  # by default its constants are folded below, to the bit
@pytest.mark.parametrize("batch", [1, 5])
def test_a_baked_swin_computes_the_same_at_its_size_for_any_batch(folded_swin, batch):
    model, report = folded_swin
    agree(report.path, model, batch, 3, 33, 30)


@pytest.mark.full  # by default constants are folded below, to the bit
@pytest.mark.parametrize("fixture", ["folded", "folded_swin"])
def test_baked_graphs_hold_constants_instead_of_shape_arithmetic(fixture, request):
    _, report = request.getfixturevalue(fixture)
    graph = onnx.load(report.path).graph
    assert {node.op_type for node in graph.node} <= BAKED
    constants = {weight.name for weight in graph.initializer}
    assert all(node.input[1] in constants for node in graph.node if node.op_type == "Reshape")
    assert report.inputs["images"][0] == "batch"


@pytest.mark.full  # so does the program that it is made from, below
def test_folding_leaves_frequencies_and_the_embedding_out(folded):
    names = {weight.name for weight in onnx.load(folded[1].path).graph.initializer}
    assert not any("freqs" in name or "pos_embed" in name or "cls_token" in name for name in names)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"position": "rope_mixed_ape", "num_registers": 1}, (24, 40)),
        pytest.param(  # windows that are padded, and shifted
            {"position": "rope_axial", "swin": True}, (33, 30), marks=pytest.mark.full
        ),
    ],
)
def test_folding_is_bit_for_bit(fields, size):
    model = plain_copy(tiny(**fields))
    set_backend(model, "reference")  # which is what a program is traced from
    folded, images = fold_constant_nodes(trace(model, size)), torch.randn(3, 3, *size)
    assert torch.equal(folded(images), model(images))
    assert not any("freqs" in name or "pos_embed" in name for name in folded.state_dict())


@pytest.mark.full  # so are the exports of segmenters, which need it
def test_adaptive_pooling_of_maps_of_any_size_is_translated(folder):
    pool, sides = torch.nn.AdaptiveAvgPool2d(3), {2: torch.export.Dim("h", min=1), 3: torch.export.Dim("w", min=1)}
    program = torch.export.export(pool, (torch.zeros(2, 2, 5, 7),), dynamic_shapes=(sides,))
    pooled = onnx_files.write(program, folder / "pool.onnx", {"means": (2, 2, 3, 3)}, {})
    for h, w in ((5, 7), (1, 2), (13, 6), (4, 8)):  # bins that overlap, and that share a cell
        images = torch.randn(2, 2, h, w)
        torch.testing.assert_close(pooled(images)[0], pool(images))


def test_a_program_of_torch_export_takes_every_batch_height_and_width(program):
    model, report = program
    loaded = torch.export.load(report.path).module()
    for shape in ((1, 3, 16, 16), (2, 3, 64, 24), (4, 3, 24, 136)):
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), model(images))
    with pytest.raises(AssertionError, match="Guard failed"):
        loaded(torch.zeros(1, 3, 20, 24))  # which patches do not tile
    extra = {"ropevit.json": ""}
    torch.export.load(report.path, extra_files=extra)
    facts = json.loads(extra["ropevit.json"])
    assert json.loads(facts["classes"]) == ["a", "b", "c"]
    assert json.loads(facts["mean"]) == [0.485, 0.456, 0.406]
    assert b".py" not in report.path.read_bytes()


def test_a_program_keeps_its_first_outputs_and_what_they_need(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            return x + 1, x.sum(1), x.cumsum(0) > 0

    x, batch = torch.randn(3, 4), torch.export.Dim("batch")
    program = torch.export.export(Model(), (x,), dynamic_shapes=({0: batch},), strict=False)
    keep_outputs(program, 2)
    torch.export.save(program, tmp_path / "model.pt2")
    found = torch.export.load(tmp_path / "model.pt2").module()(torch.ones(5, 4))
    assert len(found) == 2
    assert torch.equal(found[1], torch.full((5,), 4.0))
    assert not any("cumsum" in str(node.target) for node in program.graph.nodes)


def test_a_file_whose_outputs_were_cut_is_run_before_it_is_kept():
    def whole(images):
        return [images.amax(1), images.sum((2, 3)), images > 0]

    model = tiny("rope_mixed")
    check_kept(lambda images: whole(images)[:2], whole, model, None, 2)
    for broken in (lambda images: whole(images)[:1], lambda images: [images, images.sum((2, 3))], whole):
        with pytest.raises(MismatchError, match=r"the outputs of the exported file are .* nothing was written"):
            check_kept(broken, whole, model, None, 2)


@pytest.mark.full  # by default its constants are folded, above
def test_a_swin_is_exported_at_one_size_with_a_free_batch(folder):
    model = tiny("rope_mixed", swin=True)
    report = export_torch(model, folder / "swin.pt2", size=(32, 48))
    assert report.inputs == {"images": ("batch", 3, 32, 48)}
    assert [found.shape[0] for found in report.differences] == [1, 2, 3]
    loaded, images = torch.export.load(report.path).module(), torch.randn(7, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.full
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_swin_takes_any_size_also_one_window_and_sides_that_no_window_tiles(folder, form):
    model = tiny("rope_mixed_rpb", swin=True)
    if form == "onnx":
        report = export_onnx(model, folder / "any_swin.onnx")
        session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
        run = lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])  # noqa: E731
    else:
        report = export_torch(model, folder / "any_swin.pt2")
        run = torch.export.load(report.path).module()
    assert report.inputs == {"images": ("batch", 3, "height", "width")}
    for shape in [(1, 3, 16, 16), (2, 3, 33, 70), (3, 3, 5, 64), (1, 3, 64, 48)]:
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-4)


def test_int8_quantizes_the_linear_layers_and_keeps_the_metadata(mixed, folder):
    model, whole = mixed
    path = folder / "int8.onnx"
    path.write_bytes(whole.path.read_bytes())
    rounded = onnx_files.quantize(path)
    assert path.stat().st_size < 0.75 * whole.size
    kinds = collections.Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kinds["MatMulInteger"] == 5  # qkv, proj, fc1, fc2, head
    assert kinds["MatMul"] == 2  # scores and values stay
    images = torch.randn(2, 3, 40, 56)
    absolute, relative = difference(rounded(images)[0], model(images))
    assert absolute > 0
    assert relative < 0.1
    facts = {found.key: found.value for found in onnx.load(path).metadata_props}
    assert json.loads(facts["classes"]) == ["a", "b", "ç"]
    assert sorted(found.name for found in folder.iterdir() if "float32" in found.name) == []


def test_an_export_whose_outputs_differ_is_not_written(folder):
    model, calls = tiny("none"), itertools.count()
    model.head.register_forward_hook(
        lambda _head, _given, logits: logits + 0.01 * next(calls)
    )  # a new output each time
    path = folder / "kept.pt2"
    path.write_text("before")
    with pytest.raises(MismatchError, match=r"above the tolerance of 0\.0001; nothing was written") as stop:
        export_torch(model, path, overwrite=True)
    assert len(stop.value.differences) == 3
    assert path.read_text() == "before"
    assert [found.name for found in folder.iterdir() if found.name.startswith(".kept")] == []


def test_nan_outputs_are_a_mismatch():
    absolute, relative = difference(torch.tensor([[math.nan, 1.0]]), torch.tensor([[1.0, 1.0]]))
    assert np.isnan([absolute, relative]).all()
    found = files.Difference(shape=(1, 3, 8, 8), absolute=absolute, relative=relative)
    with pytest.raises(MismatchError, match="by nan of the largest output"):
        check([found], math.inf)


def test_export_does_not_change_the_model(folder):
    model = tiny("none", num_classes=0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = export_torch(model, folder / "features.pt2", size=(16, 24))
    assert report.outputs == {"features": ("batch", 32)}
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        ("half", "m.onnx", {}, "got a model in float16; export takes float32"),
        ("vit", "m.pt2", {}, "files end in .onnx; change the suffix or the format"),
        ("vit", "none/m.onnx", {}, "no folder .*none; create it first"),
        ("vit", "there.onnx", {}, "exists; choose another name"),
        ("vit", "m.onnx", {"fold_constants": True}, "fold_constants=True without a size"),
        ("vit", "m.onnx", {"size": (30, 32)}, "use a height of 24 or 32 "),
        ("swin", "m.onnx", {"size": (0, 32)}, "got 0 x 32 pixels"),
        ("vit", "m.onnx", {"classes": ["a"]}, "got 1 class names for a model with 3 classes"),
        ("vit", "m.onnx", {"mean": [0.5]}, "for 3 channels; give one per channel"),
        ("other", "m.onnx", {}, "expected a model of ropevit.create_model"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, model, name, options, message, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    (tmp_path / "there.onnx").write_text("before")
    models = {"vit": tiny("none"), "half": tiny("none").half(), "swin": tiny("rpb", swin=True)}
    with pytest.raises(ValueError, match=message):
        export_onnx(models.get(model, torch.nn.Linear(1, 1)), tmp_path / name, **options)
    assert [found.name for found in tmp_path.iterdir()] == ["there.onnx"]


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r'onnxscript is not installed; .*"[.]\[export\]"'):
        export_onnx(tiny("none"), tmp_path / "m.onnx")


def test_only_known_warnings_are_silenced():
    with pytest.warns(FutureWarning, match="something new"), quiet():
        warnings.warn("something new", FutureWarning, stacklevel=1)
