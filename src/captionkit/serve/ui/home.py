"""GET /: a plain page with links to the endpoints, used if the web page is not installed."""

from __future__ import annotations

import html
from string import Template

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from captionkit import __version__
from captionkit.serve.service import Service

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>captionkit</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}
pre{background:#8882;padding:1rem;overflow:auto}</style>
<h1>captionkit</h1>
<p>Describes images in words, with the model <b>$model</b> (captionkit $version).</p>
<pre>curl -F image=@photo.jpg $$HERE/v1/captions
curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg $$HERE/</pre>
<ul>
<li><a href="docs">every endpoint, to try out</a>, and their <a href="openapi.json">OpenAPI description</a></li>
<li><a href="v1/models">the model</a>, <a href="healthz">health</a>, <a href="readyz">readiness</a>,
<a href="metrics">metrics</a></li>
</ul>
<script>for(const p of document.querySelectorAll("pre"))
p.textContent=p.textContent.replaceAll("$$HERE/",location.href.replace(/[?#].*/,""))</script>
</html>
""")


def mount_home(app: FastAPI, service: Service) -> None:
    """Add the plain page at GET /."""
    page = _PAGE.substitute(model=html.escape(service.model), version=__version__)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> str:
        return page
