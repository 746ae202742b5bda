# An image for NVIDIA GPUs with rotdata and rottrain. NOT BUILT OR RUN where it was written (docs/docker.md).
#
#   docker build -t rot .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" -v rot-hub:/hub rot rotdata doctor
#
# torch's wheels for Linux bring CUDA's libraries themselves; of the host they need the driver and its container toolkit.
FROM python:3.11-slim-bookworm

ARG EXTRAS=train

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HOME=/hub

# A compiler, for the kernels that torch.compile and Triton make when they run.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/*

# torch by itself: the layer of several GB stays when the code changes.
COPY constraints.txt /src/
RUN pip install -c /src/constraints.txt torch

COPY pyproject.toml README.md LICENSE /src/
COPY rotdata /src/rotdata
COPY rottrain /src/rottrain
COPY fonts /src/fonts
RUN pip install -c /src/constraints.txt "/src[${EXTRAS}]"

RUN useradd --create-home --uid 1000 rot && mkdir -p /work /hub && chown rot /work /hub
USER rot
WORKDIR /work
VOLUME /hub

CMD ["rottrain", "--help"]
