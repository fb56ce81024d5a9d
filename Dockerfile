# Spendgate: API, daemon, dashboard and commands in one image; the command says which (`api`, `daemon`, `dashboard`, ...).
# It runs as nobody in particular, and its file system may be read-only: only /tmp is written to.

FROM python:3.12-slim-bookworm AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/spendgate
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /source
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --all-extras --no-install-project
COPY gate gate
COPY flags flags
COPY daemon daemon
COPY dashboard dashboard
RUN uv sync --frozen --no-dev --all-extras --no-editable

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin spendgate
COPY --from=build /opt/spendgate /opt/spendgate
ENV PATH=/opt/spendgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    SPENDGATE_HOME=/tmp/spendgate \
    SPENDGATE_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8700 8701 8501
ENTRYPOINT ["spendgate"]
CMD ["--help"]
