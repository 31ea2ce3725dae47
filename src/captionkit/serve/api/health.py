"""Endpoints for operators of the service: health, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from captionkit.serve.errors import RefusalError, Reply
from captionkit.serve.service import Service


def upkeep(service: Service) -> APIRouter:
    """Return the router of the health, readiness and metrics endpoints."""
    router = APIRouter(tags=["upkeep"])

    @router.get("/healthz", summary="Whether the service runs")
    async def healthz() -> Response:
        return Reply({"status": "ok"})

    @router.get("/readyz", summary="Whether it would take an image now")
    async def readyz() -> Response:
        if not service.ready:
            raise RefusalError(503, "too many images wait; try again later", {"Retry-After": "1"})
        return Reply({"status": "ready", "model": service.model})

    @router.get("/metrics", summary="Counters, in Prometheus's text format")
    async def metrics() -> Response:
        return Response(service.meters.exposition(), media_type=service.meters.content_type)

    return router
