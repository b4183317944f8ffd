# Image of a CPU host, from the clone's root: docker build -f docker/cpu.Dockerfile -t ple-rec:cpu .
# No ENTRYPOINT: TorchX gives the whole command, beginning with bash, env or python.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/ple-rec

# By --build-arg the index that has torch's builds for CPUs: the CUDA libraries are most of the image otherwise.
ARG PIP_EXTRA_INDEX_URL=
COPY requirements/cpu.txt requirements/cpu-no-deps.txt requirements/dev.txt requirements/
RUN pip install -r requirements/cpu.txt \
    && pip install --no-deps --no-build-isolation -r requirements/cpu-no-deps.txt \
    && python -W ignore -c 'import torch, fbgemm_gpu, torchrec'

# The code last, so that a change of it installs nothing anew. s3: raw files and checkpoints of s3://, as pinned for tests.
COPY setup.cfg pyproject.toml README.md ./
COPY ple_rec ple_rec
COPY data_prep data_prep
COPY launch launch
RUN pip install --no-build-isolation --constraint requirements/cpu.txt --constraint requirements/dev.txt --editable '.[s3]'

CMD ["ple-rec", "--help"]
