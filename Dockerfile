# docker build -t captionkit .
# docker run -p 1234:1234 captionkit

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/captionkit
ENV PATH=/opt/captionkit/bin:$PATH
# What is depended on comes first, under the versions that are known to work, so that a change of captionkit's sources
# leaves its layer as it is.
COPY pyproject.toml container/constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies']['serve'], sep='\n')" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY src src
# hadolint ignore=DL3013
RUN PIP_CONSTRAINT=/build/constraints.txt pip install ".[serve]" && pip check

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 captionkit \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin captionkit
COPY --from=build /opt/captionkit /opt/captionkit
# All that is written goes to /tmp, so the rest of the file system may be read-only.
ENV PATH=/opt/captionkit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 1234
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:1234/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["captionkit", "serve", "--host", "0.0.0.0"]
