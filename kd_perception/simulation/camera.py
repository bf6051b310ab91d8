"""
The simulated camera: a pinhole with square pixels, riding in the right lane.

Comes in: picture size and field of view, pose on the street. Goes out: intrinsics and matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.errors import SimulationError
from kd_perception.frames import CameraPlace

NEAR_M = 0.3
FAR_M = 600.0


@dataclass(frozen=True)
class CameraModel:
    """
    Intrinsics in pixels, as ``sensor_msgs/CameraInfo`` holds them; no distortion.

    :param fov_deg: horizontal field of view in degrees.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    fov_deg: float

    @classmethod
    def from_fov(cls, width: int, height: int, fov_deg: float = 80.0) -> CameraModel:
        """
        Return the camera of that size: fx = fy = w / (2 tan(fov / 2)), centre in the middle.

        :raises SimulationError: when the size or the field of view is impossible.
        """
        if not (16 <= width <= 4096 and 16 <= height <= 4096):
            raise SimulationError(
                f'camera size {width}x{height}: width and height must be 16 to 4096 pixels')
        if not 10.0 <= fov_deg <= 150.0:
            raise SimulationError(f'camera field of view {fov_deg}: must be 10 to 150 degrees')
        focal = width / (2 * np.tan(np.radians(fov_deg) / 2))
        return cls(width, height, float(focal), float(focal), width / 2, height / 2, fov_deg)

    @property
    def tangents(self) -> tuple[float, float]:
        """Return the tangents of half the field of view, horizontal and vertical."""
        return self.width / (2 * self.fx), self.height / (2 * self.fy)

    def projection(self) -> np.ndarray:
        """Return the 4x4 clip matrix for x right, y up, z back."""
        x, y = self.tangents
        depth = FAR_M - NEAR_M
        return np.array([
            [1 / x, 0, 0, 0],
            [0, 1 / y, 0, 0],
            [0, 0, -(FAR_M + NEAR_M) / depth, -2 * FAR_M * NEAR_M / depth],
            [0, 0, -1, 0]])


@dataclass(frozen=True)
class CameraPose:
    """
    Where the camera is and looks.

    :param s: metres along the street.
    :param eye: ``[3]`` world position in metres.
    :param heading: direction of driving in radians; pitch is down from the horizon, roll to the
        right.
    """

    s: float
    eye: np.ndarray
    heading: float
    pitch: float
    roll: float = 0.

    @property
    def forward(self) -> np.ndarray:
        """Return the unit vector ``[3]`` of the line of sight."""
        flat = np.cos(self.pitch)
        return np.array([np.cos(self.heading) * flat, np.sin(self.heading) * flat,
                         -np.sin(self.pitch)])

    def axes(self) -> np.ndarray:
        """Return ``[3, 3]``: right, up and back as rows."""
        level = axes_of(-self.forward)
        if not self.roll:
            return level
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return np.array([[cos, -sin, 0.], [sin, cos, 0.], [0., 0., 1.]]) @ level

    def place(self) -> CameraPlace:
        """Return the same as rotation into the optical frame and position."""
        return CameraPlace(self.axes() * np.array([[1.], [-1.], [-1.]]), self.eye)

    def view(self) -> np.ndarray:
        """Return the 4x4 matrix from world to camera."""
        return view_matrix(self.axes(), self.eye)


def axes_of(back: np.ndarray) -> np.ndarray:
    """Return ``[3, 3]`` rows right, up, back of a camera with horizontal right axis."""
    back = back / np.linalg.norm(back)
    right = np.cross([0., 0., 1.], back)
    length = np.linalg.norm(right)
    # Straight up or down, as a sun in the zenith: any horizontal axis will do.
    right = right / length if length > 1e-6 else np.array([1., 0., 0.])
    return np.stack([right, np.cross(back, right), back])


def view_matrix(axes: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Return the 4x4 matrix that brings world points into the frame of ``axes`` at ``eye``."""
    out = np.eye(4)
    out[:3, :3] = axes
    out[:3, 3] = -axes @ eye
    return out
