"""What a cascade found out about the objects that a stream's tracker follows, put to the vote.

One classification of a small, blurred or half hidden crop is often wrong; several over a track seldom are. And what is
known of an object need not be asked on each frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foveate.service.config import TrackConfig
from foveate.service.frame import Attribute

__all__ = ["TrackMemory"]

_MOST_REMEMBERED = 1024
"""Tracks of one stream; the one unseen for longest goes first. Only a caller that never forgets comes to it."""
_RESIZED = 1.5
"""A box so much larger or smaller shows the object nearer, or from another side; one that moved shows nothing new."""
_SETTLED_SHARE, _SETTLED_WEIGHT = 0.7, 1.2
"""Of the votes so much speak for one class, with scores that add up to so much: two sure looks, or more faint ones."""
_UNSETTLED = 0.1
"""Part of the refresh interval after which a class that is not settled is looked at again."""
_HALF_LIFE = 2.0
"""Refresh intervals after which a vote counts half."""
_FORGOTTEN_WEIGHT = 0.02


_Size = tuple[float, float]
"""Width and height of a box, in pixels, at least 1."""


@dataclass(slots=True)
class _Ballot:
    """The votes of one stage on one track."""

    asked_size: _Size
    looked_size: _Size | None = None
    looked_ns: int = 0
    settled: bool = False
    votes: float = 0.0
    """How many there were, older ones counting less."""
    weights: dict[int, float] = field(default_factory=dict)
    """By class: its votes' scores, likewise."""
    labels: dict[int, str] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None
    """The sum of the normalised embeddings, likewise."""

    @property
    def winner(self) -> int:
        return max(self.weights, key=lambda class_id: self.weights[class_id])

    def settle(self) -> None:
        """Judge whether more looks would tell more."""
        if self.vector is not None:
            self.settled = self.votes >= _SETTLED_WEIGHT
        else:
            best, cast = self.weights[self.winner], sum(self.weights.values())
            self.settled = best >= _SETTLED_WEIGHT and best >= _SETTLED_SHARE * cast

    def fade(self, factor: float) -> None:
        self.votes *= factor
        self.weights = {
            who: weight * factor for who, weight in self.weights.items() if weight * factor > _FORGOTTEN_WEIGHT
        }
        self.labels = {who: self.labels[who] for who in self.weights}
        if self.vector is not None:
            self.vector = self.vector * np.float32(factor)


class TrackMemory:
    """What a cascade said of each track of one stream, so that it need not be asked about each frame.

    Frame by frame: `forget` the tracks that `StreamTracker.update` says have ended, ask `needs`, have the classifier
    look at those, hand each of its answers to `vote`, and answer with what is `said` of each track. Answers may come
    frames later. Those of a low score are votes too: else the object would be looked at on every frame.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._refresh_ns = config.refresh_s * 1e9
        self._tracks: OrderedDict[int, dict[str, _Ballot]] = OrderedDict()

    def __len__(self) -> int:
        """Tracks that something is kept of."""
        return len(self._tracks)

    def needs(self, track_ids: Sequence[int], boxes: NDArray[np.float32], stage: str, now_ns: int) -> tuple[int, ...]:
        """Which detections a stage has to look at, by their index.

        All that are not tracked; of the others those that it has not seen, or whose answer is not there yet, or that
        have changed their size by half, or that it saw too long ago.
        Shapes: boxes (N, 4) as x1, y1, x2, y2, in the order of track_ids.
        """
        sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).tolist()
        return tuple(
            index
            for index, (track_id, (width, height)) in enumerate(zip(track_ids, sizes, strict=True))
            if not track_id or self._due(track_id, (width, height), stage, now_ns)
        )

    def vote(
        self,
        track_id: int,
        stage: str,
        class_id: int,
        label: str,
        score: float,
        now_ns: int,
        embedding: NDArray[np.float32] | None = None,
    ) -> None:
        """A stage's answer about a track: its best class with its score, or an embedding of shape (D,).

        `now_ns` is that of the frame which was looked at. What comes in for a track that has ended is ignored.
        """
        ballot = self._tracks.get(track_id, {}).get(stage)
        if ballot is None:
            return
        if ballot.looked_size is not None:
            ballot.fade(0.5 ** (max(0, now_ns - ballot.looked_ns) / (_HALF_LIFE * self._refresh_ns)))
        ballot.looked_size, ballot.looked_ns = ballot.asked_size, max(now_ns, ballot.looked_ns)
        ballot.votes += 1.0
        if embedding is None:
            ballot.weights[class_id] = ballot.weights.get(class_id, 0.0) + max(float(score), _FORGOTTEN_WEIGHT)
            ballot.labels[class_id] = label
        else:
            vector = _normalised(embedding)
            ballot.vector = vector if ballot.vector is None else ballot.vector + vector
        ballot.settle()

    def said(self, track_id: int, stage: str) -> Attribute | None:
        """The vote's outcome so far; None where nothing is known.

        Its score is the winner's mean over all votes, those for other classes counting as 0. An embedding is the mean
        of the normalised ones, normalised.
        """
        ballot = self._tracks.get(track_id, {}).get(stage)
        if ballot is None or ballot.looked_size is None:
            return None
        if ballot.vector is not None:
            return Attribute(stage, 0, "", 0.0, _normalised(ballot.vector))
        winner = ballot.winner
        return Attribute(stage, winner, ballot.labels[winner], min(1.0, ballot.weights[winner] / ballot.votes))

    def forget(self, track_ids: Sequence[int]) -> None:
        """These have ended."""
        for track_id in track_ids:
            self._tracks.pop(track_id, None)

    def _due(self, track_id: int, size: _Size, stage: str, now_ns: int) -> bool:
        ballot = self._ballots(track_id).get(stage)
        if ballot is None:
            self._tracks[track_id][stage] = _Ballot(size)
            return True
        if ballot.looked_size is not None and not _resized(ballot.looked_size, size):
            interval_ns = self._refresh_ns * (1.0 if ballot.settled else _UNSETTLED)
            if now_ns - ballot.looked_ns < interval_ns:
                return False
        ballot.asked_size = size
        return True

    def _ballots(self, track_id: int) -> dict[str, _Ballot]:
        """By stage; the track becomes the one that was asked about last."""
        stages = self._tracks.setdefault(track_id, {})
        self._tracks.move_to_end(track_id)
        if len(self._tracks) > _MOST_REMEMBERED:
            self._tracks.popitem(last=False)
        return stages


def _resized(before: _Size, now: _Size) -> bool:
    """Whether one side of a box is so much longer or shorter than before."""
    (width, height), (wide, high) = before, now
    return not (width < _RESIZED * wide < _RESIZED**2 * width and height < _RESIZED * high < _RESIZED**2 * height)


def _normalised(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector at length 1; one of length 0 as it is."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, np.float32)
