"""An OTLP/HTTP collector on loopback: keeps what it is sent, as bytes and decoded."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """``url`` is its base; ``spans()`` and ``metrics()`` are all there have been."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.received))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        collector = cls()
        thread = threading.Thread(target=collector._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector._server.shutdown()
            collector._server.server_close()
            thread.join()

    def spans(self) -> list[Any]:
        """Spans as protobuf messages."""
        found: list[Any] = []
        for request in self._decoded("/v1/traces", ExportTraceServiceRequest):
            for resource in request.resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found

    def resources(self) -> list[dict[str, Any]]:
        """What the senders of spans said of themselves."""
        requests = self._decoded("/v1/traces", ExportTraceServiceRequest)
        return [attributes(each.resource) for request in requests for each in request.resource_spans]

    def metrics(self) -> dict[str, Any]:
        """Metrics by name, each as it was sent last."""
        found: dict[str, Any] = {}
        for request in self._decoded("/v1/metrics", ExportMetricsServiceRequest):
            for resource in request.resource_metrics:
                found |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        return found

    def everything(self) -> bytes:
        return b"".join(body for _, body in self.received)

    def _decoded(self, path: str, kind: Any) -> list[Any]:
        return [kind.FromString(body) for at, body in list(self.received) if at == path]


def attributes(holder: Any) -> dict[str, Any]:
    """A span's or resource's attributes as a dictionary."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


def _handler(received: list[tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.append((self.path, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    return Handler
