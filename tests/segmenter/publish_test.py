"""Publishing, with only the hubs' own network calls replaced: nothing leaves the machine."""

import json
import os
import shutil

import huggingface_hub
import kagglehub
import pytest

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import model_card, preset_files, presets
from layered_segmentation.segmenter.segmenter import create_segmenter

FLOWERS = "layered_unet_flowers_64"
HF, KAGGLE = "hf://somebody/flowers", "kaggle://somebody/flowers/keras/small"


class Hub:
    """What the hubs were sent: a list of calls, and the files of the repository."""

    def __init__(self, root):
        self.calls, self.root = [], root
        os.makedirs(root)

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def repo_exists(self, repo_id):
        return bool(os.listdir(self.root))

    def file_exists(self, repo_id, filename):
        return os.path.exists(os.path.join(self.root, filename))

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        self.calls.append(("file", path_in_repo))
        shutil.copyfile(path_or_fileobj, os.path.join(self.root, path_in_repo))

    def upload_folder(self, repo_id, folder_path):
        self.calls.append(("folder", repo_id))
        shutil.copytree(folder_path, self.root, dirs_exist_ok=True)

    def model_upload(self, handle, folder):
        self.calls.append(("kaggle", handle))
        shutil.copytree(folder, self.root, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(str(tmp_path / "hub"))
    for name in ("create_repo", "repo_exists", "file_exists", "upload_file", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
    monkeypatch.setattr(kagglehub, "model_upload", hub.model_upload)
    return hub


@pytest.fixture
def run(tmp_path):
    """A run with a segmenter, its drafted card and an evaluation."""
    root = tmp_path / "run"
    (root / "evaluation").mkdir(parents=True)
    config = configs.load("quickstart_photos", ["data.path=/home/me/secret"])
    segmenter = create_segmenter(8, 16)
    card = model_card.draft(config, 16, segmenter.count_params(), {"steps": 300, "seed": 0})
    presets.save(segmenter, str(root / "segmenter"), card=card)
    results = {
        "miou": 0.8123,
        "miou_std": 0.1,
        "images": 40,
        "refine": "none",
        "protocol": "As is.",
    }
    results["references"] = {"grabcut": 0.7, "full_mask": 0.3}
    (root / "evaluation" / "results.json").write_text(json.dumps(results))
    return root


def finish(path):
    """Writes what the draft leaves open."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace(model_card.OPEN, "Written") for line in lines))


@pytest.mark.parametrize("address", [HF, KAGGLE])
def test_a_packaged_preset_arrives_whole(layerseg, hub, address):
    done = layerseg("publish", f"--preset={FLOWERS}", f"--to={address}", "--private")
    assert done.status == 0, done.stderr
    packaged = preset_files.packaged(FLOWERS)
    assert sorted(os.listdir(hub.root)) == sorted(os.listdir(packaged))
    for name in os.listdir(packaged):
        with (
            open(os.path.join(packaged, name), "rb") as local,
            open(os.path.join(hub.root, name), "rb") as uploaded,
        ):
            assert local.read() == uploaded.read(), name
    assert presets.load(hub.root).resolution == 64
    if address == HF:
        # Our card first: KerasHub writes another where it finds none.
        assert [call[0] for call in hub.calls] == ["create", "file", "create", "folder"]
        assert hub.calls[0] == ("create", "somebody/flowers", True)
    else:
        assert hub.calls == [("kaggle", "somebody/flowers/keras/small")]
    size = sum(os.path.getsize(os.path.join(packaged, name)) for name in os.listdir(packaged))
    assert f"files, {size / 1e6:.2f} MB" in done.stdout and f"--segmenter={address}" in done.stdout


def test_a_draft_says_what_is_known_and_what_is_missing(layerseg, hub, run):
    card = (run / "segmenter" / preset_files.CARD).read_text()
    assert "gan.mask_size=0.1" in card and "student.resolution=64" in card
    assert "steps 300, seed 0" in card and "secret" not in card
    flags = [f"--preset={run}", f"--to={HF}"]
    done = layerseg("publish", *flags)
    assert done.status == 2 and "'TO BE WRITTEN' is left in line" in done.stderr
    assert hub.calls == [] and os.listdir(hub.root) == []


def test_a_run_is_published_with_its_scores(layerseg, hub, run):
    card = run / "segmenter" / preset_files.CARD
    finish(card)
    before = {path.name: path.read_bytes() for path in (run / "segmenter").iterdir()}
    flags = [f"--preset={run}", f"--to={HF}", f"--evaluation={run / 'evaluation'}"]
    dry = layerseg("publish", *flags, "--dry_run")
    assert dry.status == 0, dry.stderr
    assert "nothing was uploaded" in dry.stdout and "model.weights.h5" in dry.stdout
    assert "| the segmenter, refine: none | 0.812 ± 0.100 |" in dry.stdout and hub.calls == []
    done = layerseg("publish", *flags)
    assert done.status == 0, done.stderr
    with open(os.path.join(hub.root, preset_files.CARD), encoding="utf-8") as file:
        published = file.read()
    assert "| grabcut | 0.700 |" in published and "\nAs is.\n" in published
    assert published.index("## Scores") < published.index("## Protocol") < published.index("## Lim")
    preset_files.verify(hub.root, "publish again")
    assert {path.name: path.read_bytes() for path in (run / "segmenter").iterdir()} == before


def test_only_the_files_of_a_preset_are_published(layerseg, hub, run):
    preset = run / "segmenter"
    finish(preset / preset_files.CARD)
    expected = sorted(path.name for path in preset.iterdir())
    (preset / "notes.txt").write_text("secret")
    (preset / ".env").write_text("TOKEN=secret")
    (preset / "photos").mkdir()
    (preset / "photos" / "task.json").write_text("secret")
    (preset / "README.old.md").write_text("secret")
    flags = [f"--preset={run}", f"--to={HF}"]
    done = layerseg("publish", *flags)
    assert done.status == 0, done.stderr
    assert sorted(os.listdir(hub.root)) == expected
    assert "left out, not part of a preset: .env, README.old.md, notes.txt, photos" in done.stdout


@pytest.mark.posix("links without special rights")
@pytest.mark.parametrize("name", ["LICENSE", "task.json", "model.weights.h5"])
def test_a_link_is_not_published(layerseg, hub, run, tmp_path, name):
    preset = run / "segmenter"
    finish(preset / preset_files.CARD)
    outside = tmp_path / "outside"
    if (preset / name).exists():
        (preset / name).rename(outside)
    else:
        outside.write_text("secret")
    (preset / name).symlink_to(outside)
    done = layerseg("publish", f"--preset={run}", f"--to={HF}")
    assert done.status == 2 and f"{name}: is a link; publish a copy" in done.stderr
    assert hub.calls == []


def test_no_path_of_the_machine_is_published(layerseg, hub, run, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    results = json.loads((run / "evaluation" / "results.json").read_text())
    results["protocol"] = "Pseudo truth: the detector /home/somebody/nets/mask_rcnn, class 3."
    (run / "evaluation" / "results.json").write_text(json.dumps(results))
    card = run / "segmenter" / preset_files.CARD
    finish(card)
    flags = [f"--preset={run}", f"--to={HF}", f"--evaluation={run / 'evaluation'}", "--dry_run"]
    done = layerseg("publish", *flags)
    assert done.status == 0, done.stderr
    assert "the detector mask_rcnn, class 3." in done.stdout and "somebody/nets" not in done.stdout
    card.write_text(card.read_text() + "\nTrained on /home/somebody/photos.\n")
    done = layerseg("publish", *flags)
    assert done.status == 2 and "contains /home/somebody, a path of this machine" in done.stderr


def test_a_model_on_the_hub_is_overwritten_only_if_asked(layerseg, hub, run):
    flags = [f"--preset={FLOWERS}", f"--to={HF}"]
    assert layerseg("publish", *flags).status == 0
    calls = list(hub.calls)
    done = layerseg("publish", *flags)
    assert done.status == 2 and "the model exists already; add --overwrite" in done.stderr
    assert hub.calls == calls
    assert layerseg("publish", *flags, "--overwrite").status == 0


@pytest.mark.parametrize("address", [HF, KAGGLE])
def test_a_failed_upload_is_one_error(layerseg, hub, monkeypatch, address):
    def away(*_, **__):
        raise ConnectionError("the network is away\nand more")

    monkeypatch.setattr(huggingface_hub, "repo_exists", away)
    monkeypatch.setattr(kagglehub, "model_upload", away)
    done = layerseg("publish", f"--preset={FLOWERS}", f"--to={address}")
    assert done.status == 2 and f"--to={address}: the upload failed: the network" in done.stderr
    assert "logged in" in done.stderr and "and more" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=hf://flowers"], "must be hf://OWNER/NAME or kaggle://"),
        (["--to=kaggle://somebody/flowers"], "must be hf://OWNER/NAME or kaggle://"),
        (["--to=https://huggingface.co/a/b"], "must be hf://OWNER/NAME or kaggle://"),
        ([f"--to={HF}", "--card=NONE"], "NONE: the model card cannot be read"),
        ([f"--to={HF}", "--evaluation=NONE"], "--evaluation=NONE: "),
        ([f"--to={HF}", "--preset=NONE"], "--preset=NONE: there is no such directory"),
    ],
)
def test_bad_input_uploads_nothing(layerseg, hub, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    if not any(flag.startswith("--preset") for flag in flags):
        flags = [f"--preset={FLOWERS}", *flags]
    done = layerseg("publish", *flags)
    assert done.status == 2 and message in done.stderr, done.stderr
    assert hub.calls == []


def test_incomplete_cards_and_other_results_are_refused():
    with pytest.raises(UserError, match=r"card\.md: the card has no section Limits, Licence"):
        model_card.require_complete("## Data\n## Settings\n## Scores\n## Protocol\n", "card.md")
    with pytest.raises(UserError, match="the card has no section Scores"):
        good = {"miou": 1, "miou_std": 0, "images": 1, "refine": "none", "references": {}}
        model_card.with_scores("## Data\n", {**good, "protocol": ""})
    with pytest.raises(UserError, match=r"results.json was not written by `layerseg evaluate"):
        model_card.with_scores("## Scores\n\n## Protocol\n", {"fid": 3})
