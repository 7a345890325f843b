import json
from dataclasses import replace

import pytest
import torch

from ropevit.models.published import TOP1
from ropevit.tasks.classify.recipes import IMAGENET, find_recipe
from ropevit.tasks.classify.reproduce import (
    TABLES,
    Speed,
    list_targets,
    match_runs,
    parse_throughput,
    speeds_of_runs,
)
from ropevit.tasks.classify.timing import time_training
from ropevit.tasks.runs.run_summary import find_runs


def test_the_tables_have_every_row_that_the_paper_reports():
    assert {target.name for target in list_targets("all")} == set(TOP1)
    assert [len(list_targets(table)) for table in TABLES] == [9, 6, 9]
    with pytest.raises(ValueError, match="got table 'coco'; choose one of vit, vit-ape, swin, all"):
        list_targets("coco")


@pytest.mark.parametrize("target", list_targets("all"), ids=lambda target: target.name)
def test_each_training_starts_from_the_weights_of_the_one_before(target):
    *before, last = target.stages
    assert last.config.model.name == target.name
    assert last.config.model.size == 224
    if before:
        assert before[0].config.model.size == 192
        assert last.config.model.init == f"{before[0].config.run.out}/model.safetensors"
        assert before[0].config.model.init is None
    assert len({str(stage.config.run.out) for stage in target.stages}) == len(target.stages)


def test_hours_need_a_throughput_for_every_training():
    base = next(target for target in list_targets("vit") if target.name == "rope_mixed_deit_base_patch16_LS")
    assert [stage.images for stage in base.stages] == [400 * IMAGENET, 20 * IMAGENET]
    speeds = parse_throughput(["deit3_base=1000", "deit3_base_finetune=500"], [base])
    hours = base.hours(lambda stage: speeds.get(stage.config.recipe), devices=8)
    assert hours == pytest.approx(8 * (400 * IMAGENET / 1000 + 20 * IMAGENET / 500) / 3600)
    del speeds["deit3_base"]
    assert base.hours(lambda stage: speeds.get(stage.config.recipe), devices=8) is None


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fast", "expected images per second"),
        ("-3", "expected images per second"),
        ("nan", "expected images per second"),
        ("deit4=3", "no recipe is named 'deit4'"),
        ("2500", "name the recipe, such as deit3_small=2500"),
    ],
)
def test_an_invalid_or_ambiguous_throughput_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        parse_throughput([word], list_targets("vit"))
    assert parse_throughput(["2500"], list_targets("vit")[:1])["deit3_small"].images_per_second == 2500


def run(folder, config, lines, classes=1000, finished=True):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"classes": ["x"] * classes}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": 1, **line}) + "\n" for line in lines))
    if finished:
        (folder / "model.safetensors").touch()


def recipe(name, position, **changes):
    config = find_recipe(name)
    return replace(config, model=replace(config.model, position=position), **changes)


def test_runs_are_assigned_by_recipe_and_position_and_differences_are_listed(tmp_path):
    lines = [{"epoch": 1.0, "images_per_second": speed} for speed in (900.0, 1000.0, 5000.0)]
    good = recipe("deit3_small", "ape").with_run(seed=3)
    run(tmp_path / "good", good, [*lines, {"epoch": 400.0, "top1": 80.31}])
    run(
        tmp_path / "odd", recipe("deit3_small", "rope_axial", batch_size=512), [{"epoch": 9.0, "top1": 30.0}], 10, False
    )
    run(tmp_path / "other", recipe("fashion", "rope_mixed"), [{"epoch": 1.0, "loss": 2.0}])
    run(tmp_path / "pre", recipe("deit3_base", "ape"), [{"epoch": 1.0, "images_per_second": 100.0, "top1": 82.0}])
    targets, runs = list_targets("vit"), find_runs([tmp_path])
    found, notes = match_runs(targets, runs)
    shown = {name: [str(one) for one in own] for name, own in found.items() if own}
    assert shown == {
        "deit_small_patch16_LS": ["80.31"],
        "rope_axial_deit_small_patch16_LS": ["30.00 (epoch 9) *"],
    }
    assert any("odd" in note and "batch_size was 2048, now 512" in note and "now 10" in note for note in notes)
    assert any("other (fashion with rope_mixed) belongs to none of these rows" in note for note in notes)
    assert len(notes) == 2
    speed_of = speeds_of_runs(runs)
    assert speed_of(targets[0].stages[0]) == Speed(images_per_second=1000.0, source="good")
    assert targets[0].hours(speed_of, 1) == pytest.approx(400 * IMAGENET / 1000 / 3600)
    base = next(target for target in targets if target.name == "deit_base_patch16_LS")
    assert speed_of(base.stages[0]).images_per_second == 100
    assert base.hours(speed_of, 1) is None  # nobody has timed the fine-tuning


@pytest.mark.parametrize(("name", "position"), [("deit3_small", "rope_mixed"), ("swin_tiny", "rope_axial_rpb")])
def test_a_few_real_steps_are_timed(name, position):
    config = recipe(name, position)
    fields = {"width": 32, "depth": 1, "heads": 2} if "deit" in name else {"width": 12}
    speed = time_training(replace(config, model=replace(config.model, size=32, **fields)), torch.device("cpu"), "it")
    assert 0 < speed.images_per_second < 1e5
    assert speed.source == "3 steps of 2 images on it, without reading images"
