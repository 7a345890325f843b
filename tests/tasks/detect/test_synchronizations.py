from dataclasses import replace

import pytest

from ropevit.data.coco import open_coco
from ropevit.tasks.detect.model import Detector
from ropevit.tasks.detect.train import Detection
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from synchronizations import CountSynchronizations, on_host
from tasks.detect.generated import small_training, write_images


@pytest.mark.parametrize(("images", "layers"), [(2, 2), (5, 3)])
def test_a_training_step_synchronizes_once_whatever_the_number_of_images_and_layers(images, layers, tmp_path):
    root = write_images(tmp_path / "coco")
    config = small_training(root, tmp_path / "run", model={"width": 16, "depth": 1, "heads": 1, "patch_size": 16})
    dino = replace(config.model.dino, encoder_layers=layers, decoder_layers=layers)
    config = replace(config, batch_size=images, model=replace(config.model, window=2, dino=dino))
    sources = open_coco(root, "train"), open_coco(root, "val", keep_empty=True)
    try:
        task = Detection(config, *sources, make_accelerator(config.run), Communicator())
        model, batch = Detector(config.model, len(task.classes)).train(), on_host(next(task.batches(0, 1)))
        assert len(batch.targets) == images
        with CountSynchronizations() as counted:
            task.loss(model, batch, 0).backward()
    finally:
        shutdown()
    assert counted.names() == ["cpu"], counted.found  # the costs of matching
