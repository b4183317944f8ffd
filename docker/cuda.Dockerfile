# Image of a GPU host, from the clone's root: docker build -f docker/cuda.Dockerfile -t ple-rec:cuda .
# No ENTRYPOINT: TorchX gives the whole command, beginning with bash, env or python.
# No CUDA base image: torch's wheels bring their CUDA libraries, NVIDIA's container runtime mounts the host's driver.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# What of the driver is mounted: CUDA and nvidia-smi. Which GPUs are is the scheduler's to say.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/ple-rec

# Triton compiles the launchers of its kernels (train.compile) with a C compiler, which the slim image lacks.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# Not imported here, as requirements/setup.sh does: FBGEMM's library needs the driver, which no build has.
COPY requirements/cuda.txt requirements/cuda-no-deps.txt requirements/dev.txt requirements/
RUN pip install -r requirements/cuda.txt \
    && pip install --no-deps --no-build-isolation -r requirements/cuda-no-deps.txt

# The code last, so that a change of it installs nothing anew. s3: raw files and checkpoints of s3://, as pinned for tests.
COPY setup.cfg pyproject.toml README.md ./
COPY ple_rec ple_rec
COPY data_prep data_prep
COPY launch launch
RUN pip install --no-build-isolation --constraint requirements/cuda.txt --constraint requirements/dev.txt --editable '.[s3]'

CMD ["ple-rec", "--help"]
