"""The script that finds cars with Mask R-CNN, with random weights; CI installs no torchvision."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "mask_rcnn.py")


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("torchvision")
    spec = importlib.util.spec_from_file_location("mask_rcnn", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_union_masks_of_the_size_of_the_composites(script, tmp_path, monkeypatch):
    import torch
    from torchvision.models import detection

    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    with torch.no_grad():  # every region is a car that fills it
        model.roi_heads.box_predictor.cls_score.bias[3] = 20.0
        model.roi_heads.mask_predictor.mask_fcn_logits.bias[3] = 20.0
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "scenes" / "images").mkdir(parents=True)
    (tmp_path / "scenes" / "scenes.json").write_text("{}")
    levels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    for name in ("000001.png", "000002.png"):
        Image.fromarray(levels).save(tmp_path / "scenes" / "images" / name)

    def masks(out, *more):
        flags = [f"--images={tmp_path}/scenes/images", f"--out={tmp_path / out}", "--device=cpu"]
        weights = f"--weights={tmp_path}/weights.pth"
        monkeypatch.setattr(sys, "argv", ["mask_rcnn.py", *flags, weights, *more])
        script.main()
        assert sorted(os.listdir(tmp_path / out)) == ["000001.png", "000002.png", "scenes.json"]
        for name in ("000001.png", "000002.png"):
            with Image.open(tmp_path / out / name) as mask:
                assert (mask.mode, mask.size) == ("L", (48, 48))
                assert set(np.unique(mask)) <= {0, 255}
                yield np.asarray(mask) > 0

    assert all(mask.mean() > 0.1 for mask in masks("cars"))
    assert not any(mask.any() for mask in masks("horses", "--label=19"))
    assert not any(mask.any() for mask in masks("certain", "--score=1.1"))

    from layered_segmentation.evaluation import detectors

    detector = detectors.open_detector(str(tmp_path / "cars"))
    found = detector([levels], ["000001"])
    assert found[0].shape == (48, 48) and found[0].any()
