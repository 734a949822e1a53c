"""Finds the cars in generated composites with torchvision's Mask R-CNN R50-FPN, for table 1.

  pip install torchvision
  layerseg sample --run_dir=RUN --stage=64 --detector_size=128 --count=10000 --images_out=SCENES
  python examples/mask_rcnn.py --images=SCENES/images --out=DETECTED
  layerseg evaluate_generated --run_dir=RUN --stage=64 --detector_size=128 --detector=DETECTED

A mask is the union of all instances of the class, and 0 where nothing is found.
"""

import argparse
import pathlib
import shutil

import torch
from PIL import Image
from torchvision.models import detection
from torchvision.transforms import functional

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--images", required=True, type=pathlib.Path, help="directory of PNG files")
parser.add_argument("--out", required=True, type=pathlib.Path, help="directory for the masks")
parser.add_argument("--weights", help="state dict; COCO weights from torchvision's cache if absent")
parser.add_argument("--label", type=int, default=3, help="COCO's class number; 3 is car")
parser.add_argument("--score", type=float, default=0.5, help="minimum score of a detection")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def main() -> None:
    """Writes one mask per composite."""
    args = parser.parse_args()
    coco = None if args.weights else detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    model = detection.maskrcnn_resnet50_fpn(weights=coco, weights_backbone=None)
    if args.weights:
        model.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    model.eval().to(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    if (record := args.images.parent / "scenes.json").is_file():
        shutil.copy(record, args.out)  # evaluate_generated checks that these are its scenes
    for path in sorted(args.images.glob("*.png")):
        image = functional.to_tensor(Image.open(path).convert("RGB")).to(args.device)
        (found,) = model([image])
        wanted = (found["labels"] == args.label) & (found["scores"] >= args.score)
        union = (found["masks"][wanted, 0] >= 0.5).any(dim=0)
        Image.fromarray(union.byte().mul(255).cpu().numpy()).save(args.out / path.name)


if __name__ == "__main__":
    main()
