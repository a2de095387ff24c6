"""Runs the published `EnvironmentWorker` of the Python SDK as it is, until it is stopped.

Arguments: base URL, environment id, environment key, working folder, idle seconds."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from anthropic import AsyncAnthropic


async def serve(url: str, environment_id: str, key: str, workdir: str, max_idle: float) -> None:
    client = AsyncAnthropic(base_url=url, auth_token=key)
    worker = client.beta.environments.work.worker(
        environment_id=environment_id, environment_key=key, workdir=workdir, max_idle=max_idle
    )
    task = asyncio.create_task(worker.run())
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    asyncio.run(serve(*sys.argv[1:5], float(sys.argv[5])))
