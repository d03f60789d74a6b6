"""Serves models to OpenAI's clients, browsers, lm-evaluation-harness and Alexa.

python3 serve.py --model X.json [--host H] [--port P]    one run; prints the address first
python3 serve.py --config server.json                    many models, within a budget of memory; see docs/serving.md
python3 serve.py --new_key NAME --keys FILE [--admin]    makes an API key; servers started with --keys FILE ask for it
"""

import sys

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()
    from estimator.system import malloc_settings

    malloc_settings.use(one_arena=True)

import argparse
import ipaddress
from functools import partial
from pathlib import Path

from estimator import invocation
from estimator.arguments import Parser
from estimator.errors import UserError, import_failed, run_program
from serving import api_keys
from serving import config as server_config
from serving.config import ServerConfig


def main() -> int | None:
    arguments = parse_arguments()
    if arguments.new_key is not None:
        print(api_keys.add(arguments.keys, arguments.new_key, is_admin=arguments.admin))
        return None
    config = read_config(arguments)
    keys = api_keys.read(config.keys) if config.keys else None
    if keys is None and not is_loopback(config.host):
        raise UserError(
            f"--host {config.host}: other machines could use the server without a key; make one: "
            f"{invocation.program('serve.py')} --new_key NAME --keys keys.txt, and start with --keys keys.txt"
        )
    return run(config, keys)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--model", type=str, metavar="X.json", help="a run's JSON file, or its folder")
    mode.add_argument("--config", type=str, metavar="server.json", help="the server's JSON file")
    mode.add_argument("--new_key", metavar="NAME", help="add an API key to --keys and print it")
    parser.add_argument(
        "--set", type=str, action="append", default=[], metavar="KEY=VALUE", help="override a key of --model"
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8000); 0 takes a free one")
    parser.add_argument("--keys", type=str, metavar="FILE", help="file of API keys")
    parser.add_argument("--admin", action="store_true", help="--new_key: the key may load, unload and swap models")
    arguments = parser.parse_args()
    if arguments.new_key is not None and arguments.keys is None:
        parser.error("--new_key needs --keys FILE")
    if arguments.set and not arguments.model:
        parser.error("--set needs --model; in server.json a model has a key set")
    return arguments


def read_config(arguments: argparse.Namespace) -> ServerConfig:
    """The server's configuration; that of one run names it by its folder."""
    flags = {key: getattr(arguments, key) for key in ("host", "port", "keys") if getattr(arguments, key) is not None}
    if arguments.config:
        return server_config.read(arguments.config, flags)
    path = Path(arguments.model)
    name = path.parent.name if path.name == "config.json" else path.name.removesuffix(".json")
    entry = {"key": name or "model", "config": arguments.model, "set": arguments.set, "load": "start"}
    return server_config.checked({"models": [entry]}, flags, source="serve.py")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(config: ServerConfig, keys: api_keys.ApiKeys | None) -> int:
    try:
        from serving.api.server import serve
    except ImportError as error:
        advice = f"{error.name} is not installed; {invocation.install('serve')}"
        raise import_failed(error, advice) from error
    import jax

    from estimator.parallel import device_check, hardware
    from estimator.system import compile_cache
    from serving import load_model
    from serving.api.state import Loader, Server

    compile_cache.use()
    device_check.check_devices()
    if len(config.models) == 1:
        load_model.opened(config.models[0])  # what is wrong with the file, now
    loader = Loader(
        load=partial(load_model.load, config=config),
        estimate=partial(load_model.estimated_bytes, config=config),
        newest_step=load_model.newest_step,
        memory_bytes=hardware.memory_limit(jax.devices()) * 4 // 5,
    )
    return serve(Server(config, loader, keys, note=partial(print, file=sys.stderr)))


if __name__ == "__main__":
    run_program(main)
