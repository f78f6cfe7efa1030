# trsr serve in a container: docker compose up, or
#   docker build -t trsr . && docker run -v "$PWD/runs:/data" -p 127.0.0.1:8000:8000 trsr
FROM python:3.11-slim AS build
WORKDIR /src
# PyTorch's own index has wheels without CUDA, which are gigabytes smaller: name it here to have them
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/trsr \
    && /opt/trsr/bin/pip install --no-cache-dir -c constraints.txt "setuptools>=77" \
    && /opt/trsr/bin/pip install --no-cache-dir -c constraints.txt torch==2.13.0 \
    && /opt/trsr/bin/pip install --no-cache-dir -c constraints.txt --no-build-isolation \
        ".[serve,postgres,s3,local,baselines,embeddings,index]"

FROM python:3.11-slim
COPY --from=build /opt/trsr /opt/trsr
ENV PATH=/opt/trsr/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
# files of a run are private to who made it: start the container as that user (compose.yaml does)
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# off loopback the service wants an API key: see docs/serve.md
ENTRYPOINT ["trsr", "serve", "/data/demo", "--host", "0.0.0.0"]
