from dataclasses import replace

import pytest

from ropevit.data.ade import open_ade
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.segment.model import build_segmenter
from ropevit.tasks.segment.train import Segmentation
from synchronizations import CountSynchronizations, on_host
from tasks.segment.generated import small_training, write_images


@pytest.mark.parametrize(("head", "expected"), [
    ("upernet", []),
    ("mask2former", ["cpu"]),  # the costs of matching
])  # fmt: skip
@pytest.mark.parametrize(("images", "layers"), [(2, 1), (3, 2)])
def test_synchronizations_of_a_training_step_do_not_grow_with_images_and_layers(
    head, expected, images, layers, tmp_path
):
    root = write_images(tmp_path / "ade")
    config = small_training(root, tmp_path / "run", head=head)
    depth = {"encoder_layers": layers, "decoder_layers": layers} if head == "mask2former" else {}
    model = replace(config.model, **{head: replace(getattr(config.model, head), **depth)})
    config = replace(config, batch_size=images, model=model)
    try:
        accelerator = make_accelerator(config.run)
        task = Segmentation(config, open_ade(root, "train"), open_ade(root, "val"), accelerator, Communicator())
        model, batch = build_segmenter(config.model, len(task.classes)).train(), on_host(next(task.batches(0, 1)))
        assert len(batch.labels) == images
        with CountSynchronizations() as counted:
            task.loss(model, batch, 0).backward()
    finally:
        shutdown()
    assert counted.names() == expected, counted.found
