"""What people find a frame by: its recording, its place there and its stamp."""

from __future__ import annotations

from kd_perception.frames import Frame, FrameSource


def frame_name(source: FrameSource, frame: Frame) -> str:
    """
    Return e.g. ``drive.mcap /camera/image #6 at 1712345678.901234567``.

    Of a folder of images it is the name of the file; the stamp is in seconds.
    """
    file = getattr(source, 'file', None)
    place = f'#{frame.key.index}' if file is None else file(frame.key.index).name
    seconds, rest = divmod(frame.stamp_ns, 10 ** 9)
    parts = (source.name, frame.key.topic, place, f'at {seconds}.{rest:09d}')
    return ' '.join(part for part in parts if part)
