"""Places by id, request and shadow, and what goes with a segment."""

from hedgecast.outcomes.encoding import Kind
from hedgecast.outcomes.index import Index, Place, request_key


def test_places_are_found_by_id_request_and_shadow() -> None:
    index = Index()
    request = request_key(Kind.DECISION, "planner", "r")
    index.add_decision(Place(1, 0), "a", request=request, shadow_of="")
    index.add_decision(Place(1, 1), "b", request=None, shadow_of="a")
    index.add_outcome(Place(1, 0), "a", request=request_key(Kind.OUTCOME, "meter", "r"))
    assert len(index) == 2
    assert index.decision("a") == Place(1, 0)
    assert index.decision("c") is None
    assert index.requested(request) == Place(1, 0)
    assert index.requested(None) is None
    assert index.shadows("a") == [Place(1, 1)]
    assert index.outcome("a") == Place(1, 0)
    assert index.outcome("b") is None


def test_principals_and_kinds_do_not_share_request_ids() -> None:
    keys = {
        request_key(kind, principal, request)
        for kind in Kind
        for principal, request in [
            ("a", "b"),
            ("b", "a"),
            ("a/1", "b"),
            ("a", "1/b"),
            ("", "a/b"),
            ("a", "/b"),
        ]
    }
    assert len(keys) == 12
    assert request_key(Kind.OUTCOME, "a", "") is None


def test_a_dropped_segment_takes_all_of_its_decisions_along() -> None:
    index = Index()
    asked, told = request_key(Kind.DECISION, "p", "r"), request_key(Kind.OUTCOME, "p", "r")
    index.add_decision(Place(1, 0), "a", request=asked, shadow_of="")
    index.add_decision(Place(2, 0), "b", request=None, shadow_of="a")
    index.add_outcome(Place(2, 0), "a", request=told)
    index.drop(1)
    assert len(index) == 1
    assert index.decision("a") is None
    assert index.outcome("a") is None
    assert index.requested(asked) is None
    assert index.requested(told) is None
    # Who asks for shadows has the planner's decision; those of one that is gone stay till they go themselves.
    assert index.shadows("a") == [Place(2, 0)]
    assert index.decision("b") == Place(2, 0)
    # Its outcome may be read from a later segment when a store is opened.
    index.add_outcome(Place(2, 0), "a", request=told)
    assert index.outcome("a") is None
    index.drop(7)


def test_forgetting_frees_all_memory() -> None:
    index = Index()
    for number in range(20):
        place = Place(number // 10, number % 10)
        asked = request_key(Kind.DECISION, "p", f"r-{number}")
        index.add_decision(place, f"d-{number}", request=asked, shadow_of=f"d-{number - 1}")
        index.add_outcome(place, f"d-{number}", request=request_key(Kind.OUTCOME, "p", f"r-{number}"))
    index.drop(0)
    index.drop(1)
    # The first shadows a decision that was never here, the eleventh one that went before.
    assert [name for name, held in vars(index).items() if held] == []
