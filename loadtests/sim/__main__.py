"""`python -m loadtests.sim`: serve simulated replicas until SIGTERM, SIGINT, or an engine fails."""

import asyncio
import atexit
import gc
import logging
import signal
import sys

import uvloop

from loadtests.sim.serving.kv_publisher import EndpointError
from loadtests.sim.serving.options import Options, parse
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.server import ReplicaServer


async def serve(options: Options) -> int:
    """Serve until SIGTERM, SIGINT, or an engine dies, as vLLM does. Returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.startup_delay_s:
        await asyncio.wait([loop.create_task(stop.wait())], timeout=options.startup_delay_s)
    try:
        replicas = [SimulatedReplica(settings, host=options.host) for settings in options.replicas]
    except EndpointError as error:
        print(error, file=sys.stderr)
        return 1
    servers = [
        ReplicaServer(replica, host=options.host, port=port)
        for replica, port in zip(replicas, options.ports, strict=True)
    ]
    for server in servers:
        try:
            await server.start()
        except OSError as error:
            print(f"cannot listen on {server.address}: {error.strerror}", file=sys.stderr)
            return 1
    ports = ",".join(str(server.port) for server in servers)
    print(f"ready model={servers[0].replica.base_model} host={options.host} ports={ports}")
    sys.stdout.flush()
    deaths = [replica.engine.dead for replica in replicas]
    ends = [loop.create_task(event.wait()) for event in (stop, *deaths)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*(server.stop(options.drain_s) for server in servers))
    return int(any(death.is_set() for death in deaths))


def main() -> None:
    """Entry point."""
    atexit.register(gc.freeze)  # looking for garbage in all modules makes the end 0.1 s longer
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(uvloop.run(serve(parse())))


if __name__ == "__main__":
    main()
