"""The client with a stand-in for the server, which serves exported SavedModels."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from loopback_server import PROTOCOLS, LoopbackServer, address, connect
from PIL import Image
from tiny_networks import random_student

from layered_segmentation import images as photos
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.export import client, saved_model
from layered_segmentation.segmenter import cut_out
from layered_segmentation.segmenter.preprocessing import resize_masks


@pytest.fixture(scope="module")
def segmenter():
    return random_student(seed=3)


@pytest.fixture(scope="module")
def server(segmenter, tmp_path_factory):
    models = tmp_path_factory.mktemp("models") / "layerseg"
    saved_model.export_saved_model(segmenter, str(models))
    other = random_student(seed=4)
    saved_model.write(other, str(models / "2"))
    with LoopbackServer(str(models)) as running:
        running.segmenters = {1: segmenter, 2: other}
        yield running


@pytest.fixture(autouse=True)
def no_failures(request):
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        server.failures.clear()


@pytest.fixture
def album(tmp_path):
    """Photos of several sizes and kinds, one of them in a sub-directory, one broken."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    wide, small = Scenes(seed=5, count=2, split="test").load(64)
    Image.fromarray(wide[10:50]).save(root / "wide.png")
    Image.fromarray(small[:30, :30]).save(root / "more" / "small.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(wide).save(root / "turned.jpg", quality=100, exif=turned)
    Image.fromarray(small).save(root / "web.webp", lossless=True)
    return root


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_equal_the_keras_models(server, segmenter, album, tmp_path, protocol):
    server.requests.clear()
    predict = connect(server, protocol, version=1)
    done, failed = client.segment(predict, str(album), str(tmp_path / "out"), batch=3)
    assert (done, failed) == (4, [])
    assert server.requests == [(protocol, "image_bytes", 3), (protocol, "image_bytes", 1)]
    for name in ("wide.png", "more/small.jpg", "turned.jpg", "web.webp"):
        image = photos.read(str(album / name))
        stem = tmp_path / "out" / os.path.splitext(name)[0]
        small = np.asarray(segmenter(segmenter.prepare(image[None]), training=False))
        expected = np.asarray(resize_masks(small, *image.shape[:2]))[0, ..., 0]
        mask = np.asarray(Image.open(f"{stem}.mask.png"))
        cutout = np.asarray(Image.open(f"{stem}.cutout.png"))
        assert mask.shape == image.shape[:2] and set(np.unique(mask)) <= {0, 255}
        clear = np.abs(expected - 0.5) > 1e-3
        assert clear.mean() > 0.9 and np.array_equal(mask[clear] > 0, expected[clear] > 0.5)
        wanted = cut_out.cut_out(image, expected, 0.5)
        assert np.array_equal(cutout[..., :3], image)
        assert np.abs(cutout[..., 3].astype(int) - wanted[..., 3]).max() <= 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_newest_version_or_a_given_one(server, protocol):
    image = Scenes(seed=5, count=1, split="test").load(16)[0]
    encoded = photos_png(image)
    masks = {
        version: connect(server, protocol, version=version)([encoded]) for version in (0, 1, 2)
    }
    np.testing.assert_array_equal(masks[0], masks[2])
    for version in (1, 2):
        expected = server.segmenters[version].predict(image[None])
        np.testing.assert_allclose(masks[version], expected, atol=1e-4)
    assert np.abs(masks[1] - masks[2]).max() > 0.01


def photos_png(image):
    import io

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("failure", ["away", "full", "slow"])
def test_an_unavailable_server_is_retried(server, protocol, failure):
    image = photos_png(Scenes(seed=5, count=1, split="test").load(16)[0])
    expected = connect(server, protocol)([image])
    server.failures[:] = [failure, failure]
    predict = connect(server, protocol, timeout=0.5 if failure == "slow" else 20)
    np.testing.assert_array_equal(predict([image]), expected)
    assert not server.failures
    server.failures[:] = ["away"] * 3
    with pytest.raises(client.Unavailable, match=r"no answer, the server is away \(3 att"):
        connect(server, protocol, retries=2)([image])
    assert not server.failures


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_server_times_out(server, protocol):
    server.failures[:] = ["slow"] * 2
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no answer within 0\.1 s \(2 attempts\)"):
        connect(server, protocol, timeout=0.1, retries=1)([b"x"])
    assert time.monotonic() - start < 5
    time.sleep(1.2)  # its threads are busy so long


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_error_messages(server, protocol, tmp_path):
    image = photos_png(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=r"--model=other: .* does not serve it .*not found"):
        connect(server, protocol, name="other")([image])
    with pytest.raises(UserError, match=r"--model=layerseg, version 9: .* does not serve it"):
        connect(server, protocol, version=9)([image])
    with pytest.raises(client.Refused, match="refuses the request"):
        connect(server, protocol)([b"no image"])
    server.failures[:] = ["broken"]
    with pytest.raises(UserError, match=r"it fails with .*the server is broken"):
        connect(server, protocol)([image])
    gone = client.Model(f"127.0.0.1:{free_port()}", "layerseg", retries=1, backoff=0.01)
    with pytest.raises(client.Unavailable, match=r"no answer, .*\(2 attempts\); check that it"):
        client.connect(protocol, gone)([image])
    # The other protocol's port.
    wrong = {"grpc": "rest", "rest": "grpc"}[protocol]
    model = client.Model(address(server, wrong), "layerseg", retries=0)
    with pytest.raises(UserError, match="--server="):
        client.connect(protocol, model)([image])


def test_a_redirect_does_not_get_the_photos(server, segmenter, tmp_path):
    saved_model.write(segmenter, str(tmp_path / "1"))
    with LoopbackServer(str(tmp_path)) as other:
        server.failures[:] = ["redirect"]
        server.elsewhere = f"http://{other.rest_address}/v1/models/layerseg:predict"
        with pytest.raises(UserError, match=r"status 307, a redirect; photos go only to the named"):
            connect(server, "rest")([photos_png(np.zeros((16, 16, 3), np.uint8))])
        assert other.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-out", paths[0]]
    command += ["-keyout", paths[1], "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_tls(server, segmenter, certificate, tmp_path):
    saved_model.write(segmenter, str(tmp_path / "1"))
    image = photos_png(Scenes(seed=5, count=1, split="test").load(16)[0])
    with LoopbackServer(str(tmp_path), tls=certificate) as private:
        for protocol in PROTOCOLS:
            expected = connect(server, protocol, version=1)([image])
            found = connect(private, protocol, tls=True, certificates=certificate[0])([image])
            np.testing.assert_array_equal(found, expected)
            count = len(private.requests)
            for options in ({"tls": True}, {}):  # an unknown authority; no encryption
                with pytest.raises(UserError, match="--server="):
                    connect(private, protocol, retries=0, **options)([image])
            with pytest.raises(UserError, match="--server="):  # the server does not encrypt
                connect(server, protocol, tls=True, retries=0)([image])
            assert len(private.requests) == count
        with pytest.raises(UserError, match=r"its certificate is not trusted \(self.signed"):
            connect(private, "rest", tls=True)([image])
    for path, message in ((certificate[1], "contains no certificate"), ("none", "No such file")):
        for protocol in PROTOCOLS:
            with pytest.raises(UserError, match=f"--tls_ca=.*{message}"):
                connect(server, protocol, tls=True, certificates=path)


def test_a_refused_photo_does_not_stop_the_others(server, album, tmp_path):
    def predict(images):  # a server whose decoder is stricter than the client's
        if any(b"WEBP" in image or len(image) == len(refused) for image in images):
            raise client.Refused("refuses the request")
        return connect(server, "grpc")(images)

    with open(album / "more" / "small.jpg", "rb") as file:
        refused = file.read()
    (album / "cut.jpg").write_bytes(refused[:40])
    done, failed = client.segment(predict, str(album), str(tmp_path / "out"))
    assert done == 3 and len(failed) == 2
    assert any("small.jpg: refuses" in line for line in failed)
    assert any("cut.jpg" in line for line in failed)
    assert not (tmp_path / "out" / "more").exists()


def test_files_are_sent_unchanged_if_the_server_decodes_them_alike(album):
    for name, is_kept in (("wide.png", True), ("more/small.jpg", True), ("turned.jpg", False)):
        path = str(album / name)
        sent = client._encode(path, photos.read(path))
        assert (sent == (album / name).read_bytes()) == is_kept
        if not is_kept:
            assert sent.startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command(server, album, tmp_path):
    command = [sys.executable, "-m", "layered_segmentation.export.client"]
    flags = [f"--input={album}", f"--out={tmp_path / 'out'}", "--protocol=rest"]
    flags += [f"--server={server.rest_address}", "--timeout=60"]
    run = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, *flags], **run)
    assert done.returncode == 0, done.stderr
    assert "4 masks and cut-outs" in done.stdout
    written = sorted(p.name for p in (tmp_path / "out").rglob("*.png"))
    again = subprocess.run([*command, *flags], **run)
    assert again.returncode == 2 and "already exists" in again.stderr
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == written
    flags[-2] = "--server=http://localhost:8501"
    wrong = subprocess.run([*command, *flags], **run)
    assert wrong.returncode == 2 and "without a scheme" in wrong.stderr
    assert "Traceback" not in again.stderr + wrong.stderr


def test_the_loopback_server_answers_a_documented_request(server):
    """A request as in the documentation of TensorFlow Serving's REST API."""
    image = np.zeros((1, 4, 4, 3), np.uint8)
    url = f"http://{server.rest_address}/v1/models/layerseg:predict"
    body = json.dumps({"instances": image.tolist()}).encode()
    with urllib.request.urlopen(url, body, timeout=20) as response:
        answer = json.load(response)
    assert np.asarray(answer["predictions"]).shape == (1, 4, 4, 1)
