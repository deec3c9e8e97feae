"""What all engines are compared with, and the two servers that are slow to start: each starts once for all tests."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import GREEDY, QUESTIONS, SCORED, SETTINGS, Expected, ask


@pytest.fixture(scope="session")
def llama(data: Path) -> str:
    return str(data / "pocket" / "llama")


@pytest.fixture(scope="session")
def expected(llama: str) -> Expected:
    from pbt.engines.vllm import VllmEngine

    engine = VllmEngine(llama, SETTINGS)

    async def everything() -> Expected:
        replies = await asyncio.gather(*(engine.chat(ask(question), GREEDY, 0) for question in QUESTIONS))
        return Expected(replies, await engine.score(ask(QUESTIONS[0]), SCORED))

    found = asyncio.run(everything())
    engine.close()
    return found


@pytest.fixture(scope="session")
def vllm_server(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real vLLM server that serves the pocket Llama as "pocket"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = (
        f"--model {llama} --served-model-name pocket --host 127.0.0.1 --port {port} --dtype float32 --enforce-eager "
        "--max-model-len 128 --max-num-seqs 64 --no-enable-chunked-prefill"
    )
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options.split()],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 240
        while not _healthy(port):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # The server and the engine that it has started are one process group.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
