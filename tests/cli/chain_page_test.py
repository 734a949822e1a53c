import pytest
from PIL import Image

from layered_segmentation.cli import chain_page


def results(miou, references):
    return {
        "miou": miou,
        "references": references,
        "images": 500,
        "student": {"parameters": 93_665},
    }


@pytest.mark.parametrize(
    ("miou", "references", "words"),
    [
        (0.9, {"full_mask": 0.28, "centre_box": 0.46, "grabcut": 0.68},
         "mean IoU is 0.900. Without learning: GrabCut 0.680, centre box 0.460 and full mask 0.28"),
        (0.5, {"full_mask": 0.28, "grabcut": 0.68}, "is 0.500: no better than GrabCut. The sheets"),
        (0.2, {"full_mask": 0.28, "grabcut": 0.68}, "no better than GrabCut and full mask."),
        (None, {}, "there is no score"),
    ],
)  # fmt: skip
def test_the_verdict_is_honest(miou, references, words):
    assert words in chain_page.verdict(results(miou, references), is_shapes=True)


def test_the_commands_and_notes_name_no_folder_of_the_machine():
    commands = chain_page._commands("run")
    assert commands[0].line.startswith("layerseg segment --segmenter=run --input=PHOTOS ")
    test = {"images": "/home/somebody/cars", "masks": "/home/somebody/masks"}
    for miou in (None, 0.5):
        note = chain_page._examples_note({"miou": miou, "test": test}, is_shapes=False)
        assert note.startswith("Photos of cars") and "somebody" not in note


def test_sliders_come_in_the_order_of_the_page(tmp_path):
    for name in ("compared_worst", "compared_photos_1", "compared_best", "compared_x", "best"):
        Image.new("RGB", (20 if "best" in name else 40, 5)).save(tmp_path / f"{name}.png")
    read = chain_page.read_comparisons(str(tmp_path))
    assert [(one.caption, one.ratio) for one in read] == [
        ("The best by score.", 2.0), ("The worst by score.", 4.0), ("", 4.0),
    ]  # fmt: skip


def test_examples_come_in_the_order_of_the_page(tmp_path):
    for name in ("worst", "best"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    captions = [picture.caption for picture in chain_page.read_examples(str(tmp_path))]
    assert captions == ["The best by score.", "The worst by score."]
