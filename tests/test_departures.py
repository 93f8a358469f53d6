"""The measured departures: each effect is there, and ours is the exact one."""

from perfkit.departures import measure


def test_every_departure_makes_a_difference_and_is_told():
    lines = []
    found = measure(lines.append)
    assert len(lines) == 6
    assert found["eq4_without_lags"] > 0.2
    assert found["delay_volterra"] > 0.3 and found["delay_circulant"] < 0.01
    assert found["lambda_detached_volterra"] > 0.1 and found["lambda_detached_circulant"] > 0.1
    assert found["gradient_svd"] > 0.05 and found["gradient_fft"] < 1e-6
