"""The exception family."""

from kd_perception.errors import BagError, KdPerceptionError


def test_messages_are_one_line_whatever_they_quote():
    error = BagError('topic "a\nb": is damaged')
    assert isinstance(error, KdPerceptionError)
    assert str(error) == 'topic "a b": is damaged'
