"""Endpoints for operators of the service: health, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from captionkit.serve.errors import RefusalError
from captionkit.serve.replies import HealthAnswer, ReadyAnswer, Reply
from captionkit.serve.service import Service


def health(service: Service) -> APIRouter:
    """Return the router of the health, readiness and metrics endpoints."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="Whether the service runs", response_model=HealthAnswer)
    async def healthz() -> Response:
        return Reply(HealthAnswer(status="ok"))

    @router.get("/readyz", summary="Whether it would take an image now", response_model=ReadyAnswer)
    async def readyz() -> Response:
        if not service.ready:
            raise RefusalError(503, "too many images wait; try again later", {"Retry-After": "1"})
        return Reply(ReadyAnswer(status="ready", model=service.model))

    @router.get("/metrics", summary="Counters, in Prometheus's text format")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=service.metrics.content_type)

    return router
