"""Figures for Prometheus, of one application each: `Metrics`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("serve_requests", "Requests answered.", labels, registry=own)
        self.latency = Histogram(
            "serve_request_seconds", "From request to answer.", labels[:2], buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("serve_requests_in_flight", "Requests being answered.", registry=own)
        self.texts = Counter("serve_texts", "Texts read by the model.", registry=own)
        self.tokens = Counter("serve_tokens", "Tokens read by the model, padding excluded.", registry=own)
        self.truncated = Counter("serve_truncated_texts", "Texts of which the end was left out.", registry=own)
        self.refused = Counter("serve_refused_requests", "Requests refused because the queue was full.", registry=own)
        self.run_seconds = Histogram("serve_run_seconds", "One run of the model.", buckets=_SECONDS, registry=own)
        self.run_texts = Histogram("serve_run_texts", "Texts in one run of the model.", buckets=_TEXTS, registry=own)
        self.queued_tokens = Gauge("serve_queued_tokens", "Tokens accepted and not yet answered.", registry=own)
        self.ready = Gauge("serve_ready", "1 when the model is loaded and its golden vectors are right.", registry=own)
        self.load_seconds = Gauge("serve_model_load_seconds", "How long loading the model took.", registry=own)

    def on_run(self, texts: int, tokens: int, seconds: float) -> None:
        """Count one run of the model."""
        self.texts.inc(texts)
        self.tokens.inc(tokens)
        self.run_texts.observe(texts)
        self.run_seconds.observe(seconds)

    def watch_queue(self, queued_tokens: Callable[[], float]) -> None:
        """Ask for the length of the queue whenever somebody reads the figures."""
        self.queued_tokens.set_function(queued_tokens)

    def exposition(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self.registry)
