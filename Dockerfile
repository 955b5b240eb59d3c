# The course in a container, from the same pins as everywhere: constraints.txt, by course_lib/setup/hosted.py.
#
#   docker build -t course .                        torch's build for the CPU
#   docker build -t course --build-arg COMMIT="$(git rev-parse HEAD)" .    with the commit in every result
#   docker build -t course --build-arg TORCH=cuda . the one with CUDA (3 GB more to download)
#   docker run --rm -p 8888:8888 course             JupyterLab; open the address that it prints
#   docker run --rm --gpus all course course run 03 --profile gpu
#
# Built with buildah 1.28 from a base image of our own (Debian 12 with Python 3.11.7), because the registry of images could
# not be reached: 3.2 GB. Chapter 01 and JupyterLab ran in it. tests/setup/test_containers.py reads this file.
FROM python:3.11-slim-bookworm

# bubblewrap: the sandbox around strangers' notebooks. git: a clone of the reader's own.
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends bubblewrap ca-certificates git \
 && rm -rf /var/lib/apt/lists/*

ARG TORCH=cpu
RUN useradd --create-home --uid 1000 reader
WORKDIR /home/reader/course

# What is installed changes seldom: first what decides it, so that an edited chapter does not install everything again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY course_lib ./course_lib
COPY autograder ./autograder
RUN TORCH=$TORCH python3 course_lib/setup/hosted.py torch,data,book,grading,serve

COPY . .
RUN chown -R reader:reader /home/reader
USER reader
# Converted once, so that a reader's session converts nothing.
RUN course weights prepare
# The copy is no clone (.dockerignore), so git knows no commit here.
ARG COMMIT=
ENV HF_HUB_OFFLINE=1 COURSE_COMMIT=$COMMIT
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
