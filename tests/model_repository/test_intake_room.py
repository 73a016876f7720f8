"""Intake lets requests pass while there is room for them, those in the encoders included."""

import pytest


class LanguageModel:
    """Answers as `vicuna` does: it has room for `max_requests`."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests, self.inside, self.arrived, self.num_asked = max_requests, 0, [], 0

    def arrive(self, received_seconds: float) -> None:
        self.inside += 1
        self.arrived.append(received_seconds)

    def ask(self, num_coming: int):
        self.num_asked += 1
        arrived, self.arrived = self.arrived, []
        full = self.inside + num_coming - len(arrived) >= self.max_requests
        return "UNAVAILABLE: full" if full else "", arrived


@pytest.fixture
def room(load):
    return load("intake.room")


def test_requests_in_the_encoders_and_in_the_language_model_share_the_room(room):
    model = LanguageModel(3)
    entrance = room.Room(model.ask)
    entrance.enter(1.0)
    entrance.enter(2.0)
    model.arrive(1.0)
    entrance.enter(3.0)
    with pytest.raises(room.Unavailable, match=r"^UNAVAILABLE: full$"):
        entrance.enter(4.0)
    model.inside = 0
    entrance.enter(5.0)


def test_a_refusal_holds_for_a_moment_without_asking_again(room):
    model = LanguageModel(0)
    entrance = room.Room(model.ask)
    for moment in (1.0, 1.01, 1.09):
        with pytest.raises(room.Unavailable, match="full"):
            entrance.enter(moment)
    assert model.num_asked == 1
    model.max_requests = 1
    entrance.enter(1.11)


def test_a_request_that_never_arrives_is_given_up(room):
    model = LanguageModel(1)
    entrance = room.Room(model.ask)
    entrance.enter(1.0)
    with pytest.raises(room.Unavailable, match="full"):
        entrance.enter(60.0)
    entrance.enter(61.1)


def test_a_language_model_that_is_down_is_unavailable(room):
    entrance = room.Room(lambda _: ("the language model is down: Stub process is not healthy", ()))
    with pytest.raises(room.Unavailable, match=r"^UNAVAILABLE: the language model is down: Stub process"):
        entrance.enter(1.0)
