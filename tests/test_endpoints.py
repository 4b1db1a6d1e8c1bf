"""How long an endpoint that fails is left alone."""

import pytest

import rlaif.engines.endpoints as endpoints


def test_rests_grow_and_follow_what_the_server_says():
    endpoint = endpoints.Endpoint("http://a/v1")
    rests = []
    for _ in range(5):
        began = endpoint.retry_at
        endpoint.failed(endpoints.Trouble("no connection"), began, patience=100.0)
        rests.append(endpoint.back_offs)
    assert rests == [1, 2, 3, 4, 5]
    endpoint.failed(endpoints.Trouble("HTTP 429", wait=30.0), endpoint.retry_at - 1, patience=100.0)
    assert endpoint.back_offs == 5  # in flight when the rest began: the same reason
    now = endpoints.time.monotonic()
    endpoint.failed(endpoints.Trouble("HTTP 429", wait=30.0), endpoint.retry_at, patience=100.0)
    assert endpoint.retry_at >= now + 30
    endpoint.failed(endpoints.Trouble("HTTP 429", wait=3600.0), endpoint.retry_at, patience=100.0)
    assert endpoint.retry_at <= endpoints.time.monotonic() + 100
    endpoint.record_response()
    assert not endpoint.backing_off


def test_a_server_error_now_and_then_is_no_reason_to_rest():
    endpoint = endpoints.Endpoint("http://a/v1")
    for ailing in (False, False, True):
        endpoint.failed(endpoints.Trouble("HTTP 500"), 0.0, patience=100.0)
        assert endpoint.backing_off == ailing


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float):
    assert endpoints.retry_after(headers) == seconds


def test_retry_after_as_a_date():
    later = endpoints.time.time() + 1000
    words = endpoints.time.strftime("%a, %d %b %Y %H:%M:%S GMT", endpoints.time.gmtime(later))
    assert 990 < endpoints.retry_after({"retry-after": words}) <= 1000
