"""The exception family."""

from kd_perception.errors import BagError, KdPerceptionError, some


def test_messages_are_one_line_whatever_they_quote():
    error = BagError('topic "a\nb": is damaged')
    assert isinstance(error, KdPerceptionError)
    assert str(error) == 'topic "a b": is damaged'


def test_of_many_names_the_first_and_last_are_listed():
    names = [str(i) for i in range(9)]
    assert some(names[:6]) == '0, 1, 2, 3, 4, 5'
    assert some(names) == '0, 1, 2, 3, 4, 5, …'
    assert some(names, 2, 1) == '0, 1, …, 8'
    assert some([]) == ''
