# Peyk's image: docker build -t peyk .    compose.yaml runs it with all it needs.
FROM python:3.11-slim-bookworm

WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
    && useradd --system --uid 10001 --no-create-home peyk \
    && install -d -o peyk -m 700 /data
COPY LICENSE app.py redis_config.py ./
COPY chat chat/
COPY pipeline pipeline/
COPY bridge bridge/
RUN python -m compileall -q .

USER peyk
ENV PYTHONUNBUFFERED=1 HTTP_HOST=0.0.0.0 DATA_DIR=/data
VOLUME /data
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/ready', timeout=5)"]
CMD ["python", "app.py", "serve"]
