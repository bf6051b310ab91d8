"""Why no image comes, where the graph that says it cannot be made here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy')

from kd_perception.nodes.qos import silence_reason  # noqa: E402


@pytest.mark.parametrize('carried', ['foxglove_msgs/msg/CompressedVideo',
                                     'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'])
def test_live_video_is_refused_by_name(carried):
    """ROS from wheels has no such types, so the graph is made up."""
    node = SimpleNamespace(get_publishers_info_by_topic=lambda topic: [
        SimpleNamespace(topic_type=carried)])
    told = silence_reason(node, '/front/video', 'sensor_msgs/msg/Image', False, '')
    assert told == (f'/front/video carries {carried}, not sensor_msgs/msg/Image (video is read '
                    'from recordings only: republish it as images)')
