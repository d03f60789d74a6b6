# docker build -t gpt2 .                                   CPU
# docker build -t gpt2 --build-arg DEVICE=cuda13 .         NVIDIA GPUs (cuda12 for drivers older than 580)
# docker run --rm -v "$PWD/runs:/gpt2/runs" gpt2 --model configs/tiny.json
# docker run --rm --gpus all -v "$PWD/runs:/gpt2/runs" -v "$PWD/data:/gpt2/data" -v "$PWD/encoder:/gpt2/encoder" \
#   gpt2 --model configs/345M.json
FROM python:3.13-slim
ARG DEVICE=cpu
ENV PATH=/gpt2/.venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /gpt2
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make setup PYTHON=python3 DEVICE=$DEVICE
RUN python3 main.py --model configs/tiny.json --dry_run
VOLUME /gpt2/runs
ENTRYPOINT ["python3", "main.py"]
