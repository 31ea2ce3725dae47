"""The page at `/`: the web page, or a plain one if gradio is not installed."""

from __future__ import annotations

from fastapi import FastAPI

from captionkit.serve.logs import LOG
from captionkit.serve.service import Service
from captionkit.serve.ui.home import mount_home


def mount_ui(app: FastAPI, service: Service) -> None:
    """Mount the page; call it after all other routes have been added."""
    if service.settings.workers > 1:
        LOG.debug("the plain page: gradio's needs all requests of a visitor in one process")
        return mount_home(app, service)
    try:
        from captionkit.serve.ui.page import mount_page
    except ModuleNotFoundError as missing:
        if missing.name != "gradio":
            raise
        LOG.info("the API alone, without the web page; `pip install 'captionkit[page]'` brings that")
        return mount_home(app, service)
    return mount_page(app, service)
