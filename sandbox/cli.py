"""The command line behind sandbox/ctl."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from sandbox.cluster import LOOPBACK, NAMESPACES, Cluster, SandboxError, default_directory
from sandbox.node import Node
from sandbox.packages import PackagesError

NODE_COMMANDS = {
    "kill": "SIGKILL all processes of a node",
    "freeze": "SIGSTOP all processes of a node",
    "thaw": "SIGCONT all processes of a node",
    "stop": "stop a node cleanly",
    "start": "start a stopped or killed node again",
    "remove": "stop a node, forget it and delete its data",
}


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    result = argparse.ArgumentParser(
        prog="sandbox/ctl", description="A self-operating MySQL cluster on this host."
    )
    commands = result.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start Consul, S3 and nodes")
    up.add_argument("--nodes", type=int, default=3)
    up.add_argument("--service-name", default="mysql")
    up.add_argument(
        "--namespaces", action="store_true", help="each node in a network namespace of its own (root only)"
    )
    up.add_argument(
        "--subnet",
        help=f"first three bytes of the addresses (default {LOOPBACK}, in namespaces {NAMESPACES})",
    )
    up.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a setting for every node"
    )
    status = commands.add_parser("status", help="show the cluster (manage.py status)")
    status.add_argument("--json", action="store_true")
    commands.add_parser("add", help="add a node")
    for name, text in NODE_COMMANDS.items():
        commands.add_parser(name, help=text).add_argument("node")
    mysql = commands.add_parser("mysql", help="a client on a node, with all rights")
    mysql.add_argument("node")
    mysql.add_argument("options", nargs=argparse.REMAINDER, help="given to the client, such as -e 'SELECT 1'")
    logs = commands.add_parser("logs", help="what a node has printed")
    logs.add_argument("node")
    logs.add_argument("--follow", "-f", action="store_true")
    env = commands.add_parser("env", help="a node's environment, as lines for a shell (holds passwords)")
    env.add_argument("node")
    commands.add_parser("down", help="end everything and remove it")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except (SandboxError, PackagesError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(options: argparse.Namespace) -> None:
    """Act on the cluster in the default directory; SandboxError in one line."""
    directory = default_directory()
    if options.command == "up":
        if bad := [pair for pair in options.env if "=" not in pair]:
            raise SandboxError(f"--env {bad[0]}: it must be NAME=VALUE")
        env = dict(pair.split("=", 1) for pair in options.env)
        cluster = Cluster(
            directory,
            service_name=options.service_name,
            subnet=options.subnet,
            env=env,
            namespaces=options.namespaces,
        )
        cluster.up(options.nodes)
        primary = cluster.wait_primary(120.0)
        print(f"{primary.node} is the primary, at {primary.address}:{primary.port} (sandbox/ctl status)")
        return
    if options.command == "down":
        Cluster(directory).down()
        return
    cluster = Cluster.open(directory)
    if options.command == "status":
        print(cluster.status(*(["--json"] if options.json else [])), end="")
    elif options.command == "add":
        print(cluster.add_node().name)
    elif options.command == "remove":
        cluster.remove_node(options.node)
    else:
        on_node(cluster.node(options.node), options)


def on_node(node: Node, options: argparse.Namespace) -> None:
    """Act on one node."""
    if options.command == "mysql":
        command = node.mysql_command(*options.options)
        os.execv(command[0], command)
    elif options.command == "logs" and options.follow:
        subprocess.run(["tail", "-n", "+1", "-F", str(node.log)], check=False)
    elif options.command == "logs":
        print(node.logs(), end="")
    elif options.command == "env":
        for name, value in sorted(node.env.items()):
            print(f"{name}={value}")
    else:
        {
            "kill": node.kill,
            "freeze": node.freeze,
            "thaw": node.thaw,
            "stop": node.stop,
            "start": node.start,
        }[options.command]()


if __name__ == "__main__":
    sys.exit(main())
