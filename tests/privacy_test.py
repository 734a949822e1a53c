import pytest

from layered_segmentation import privacy
from layered_segmentation.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the detector /home/me/nets/rcnn, class 3", "the detector rcnn, class 3"),
        ("/photos: 7", "photos: 7"),
        ("~/a/b and ~you/c", "b and c"),
        (r"C:\Users\me\cars.jpg", "cars.jpg"),
        ("(/a/b/c.png)", "(c.png)"),
        ("--images=/data/me/x", "--images=x"),
        ("7 images/s, 1/2 and a / b", "7 images/s, 1/2 and a / b"),
        ("hf://owner/name and https://a.org/b/c", "hf://owner/name and https://a.org/b/c"),
        ("photos/cars", "photos/cars"),
        ("", ""),
    ],
)
def test_absolute_paths_are_cut_to_their_last_parts(text, shown):
    assert privacy.without_folders(text) == shown


def test_names_of_paths(tmp_path):
    assert privacy.name_of(str(tmp_path / "cars") + "/") == "cars"
    assert privacy.name_of("layered_unet_flowers_64") == "layered_unet_flowers_64"
    assert privacy.name_of("hf://owner/name") == "hf://owner/name"
    assert privacy.name_of("") == ""


def test_the_home_and_the_working_directory_are_private(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for path in ("/home/me/photos", "'/home/me'", f"{tmp_path}/x"):
        with pytest.raises(UserError, match=r"card\.md: line 2 contains .*, a path of this machi"):
            privacy.require_no_paths(f"first\n{path}", "card.md")
    privacy.require_no_paths("/home/meadow, /usr/share/photos", "card.md")
