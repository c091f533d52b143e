# syntax=docker/dockerfile:1
# Two images: the default trains and predicts, `--target serve` serves a run. docs/docker.md shows how to use them.

FROM python:3.12-slim-bookworm AS build
RUN python -m venv /opt/mnist-cnn
ENV PATH="/opt/mnist-cnn/bin:$PATH"
WORKDIR /src
# The dependencies have a layer of their own, which only a change of pyproject.toml builds again.
COPY pyproject.toml .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install -r requirements.txt
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[serve]'

FROM python:3.12-slim-bookworm AS base
# /work is where the runs are, /tmp/.cache where downloads are: a new volume there gets the folder's mode.
# Any user may write in both and in HOME, so that `docker run --user` works.
RUN useradd --no-create-home --uid 1000 mnist && install --directory --mode 1777 /work /tmp/.cache
COPY --from=build /opt/mnist-cnn /opt/mnist-cnn
ENV PATH="/opt/mnist-cnn/bin:$PATH" HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /work
USER 1000

FROM base AS serve
EXPOSE 8000
HEALTHCHECK --start-period=20s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["mnist-cnn", "serve", "--host", "0.0.0.0"]
CMD ["latest"]

FROM base AS train
ENTRYPOINT ["mnist-cnn"]
CMD ["--help"]
