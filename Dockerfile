# SPDX-License-Identifier: Apache-2.0
# docker build -t fast3dgs .
# docker run --rm -v "$PWD:/data" fast3dgs compress -s SCENE -m MODEL     (paths below the mounted folder)
# docker run --rm --network host -v "$PWD:/data" fast3dgs view MODEL      (the page is on the loopback interface)
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# PyTorch for CPUs: the default build brings three gigabytes of CUDA.
RUN python -m venv /opt/fast3dgs \
    && /opt/fast3dgs/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.6" \
    && /opt/fast3dgs/bin/pip install --no-cache-dir . ./submodules/*-*/

FROM python:3.11-slim-bookworm
COPY --from=build /opt/fast3dgs /opt/fast3dgs
ENV PATH=/opt/fast3dgs/bin:$PATH TORCH_HOME=/data/.cache/torch
WORKDIR /data
ENTRYPOINT ["fast3dgs"]
CMD ["--help"]
