"""Finding faces and their points in pictures and videos."""

from fastreenact.face.track.tracker import Landmarks, Tracker

__all__ = ["Landmarks", "Tracker"]
