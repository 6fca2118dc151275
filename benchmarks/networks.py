"""The cost of networks: servers on a bridge beside servers without network, and the traffic of servers.

    make bench-networks                                          1, 100 and 1000 servers, three times each
    make bench-networks BENCH='--servers 100 --only servers'
    make bench-networks BENCH='--only bridge,ports --turns 51'

servers: times as in `make bench`, and of a change of the network's firewall (open); of floor/ without and
with a pair of links for each server, of vsprov without and with a bridge, of podman with its bridge.
bridge: TCP between two servers, without and with a firewall, beside links and a bridge that are made by hand;
without and with br_netfilter, if that module is loaded.
ports: TCP from another host to a published port, with one and with many published ports.

Everything happens in network namespaces of its own. What is compared is measured in turns; medians are
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from benchmarks import peers, run
from benchmarks.run import Variant
from benchmarks.samples import Sample
from benchmarks.tables import cell, medians
from tests import world
from tests.features import SERVERS
from tests.instance import Instance, own_instance

PORT = "7000"  # on which servers listen
PUBLISHED = 10000  # the first one; every second port, because adjacent ones could be one range
BR_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")  # there if the module is loaded
SECONDS_TO_LISTEN = 10.0
TIMES = {"ping": "4000", "connect": "400"}
HEAD = "apiVersion: vsprov/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
LAN = "---\napiVersion: vsprov/v1\nkind: Network\nmetadata: {{name: lan}}\nspec: {spec}\n"
CLOSED = LAN.format(spec="{subnets: [10.232.0.0/16]}")
OPENED = LAN.format(
    spec="{subnets: [10.232.0.0/16], firewall: {ingress: [{protocol: tcp, ports: ['80', '443']}]}}"
)
ON_LAN = ", interfaces: [{name: eth0, network: lan}]"

Client = Callable[..., float]  # takes the words of traffic.c after its name


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was measured in one turn: bytes per second, nanoseconds per round trip and per new connection."""

    subject: str
    stream: float
    ping: float
    connect: float


# ---- servers on a bridge


def measure_servers(options: argparse.Namespace, lower: Path, folder: Path) -> list[Sample]:
    samples: list[Sample] = []
    for servers in map(int, options.servers.split(",")):
        for _ in range(options.repeat):
            print(f"{servers} servers ...", file=sys.stderr)
            with world.made() as there:
                samples += measure_once(lower, folder, servers, there.host)
                if options.podman and servers <= options.peer_servers:
                    samples += measure_podman(lower, folder, servers, there.host)
    return samples


def measure_once(lower: Path, folder: Path, servers: int, host: int) -> list[Sample]:
    floor = world.within(host, str(folder / "floor"))
    world.run(host, *"ip link add vt-floor type bridge".split())
    world.run(host, *"ip link set vt-floor up".split())
    samples = run.run_floor("floor", floor, lower, folder, servers)
    samples += run.run_floor("floor, veth", [*floor, "-v", "vt-floor"], lower, folder, servers)
    world.run(host, *"ip link del vt-floor".split())
    plain = Variant(network=host)
    bridge = Variant("vsprov, bridge", CLOSED, ON_LAN, host, {"open": OPENED})
    for variant in (plain, bridge):
        samples += run.measure_vsprov(lower, folder, servers, variant)
    return samples


def measure_podman(lower: Path, folder: Path, servers: int, host: int) -> list[Sample]:
    peer = peers.podman_on_bridge(lower, folder / "podman", world.within(host))
    try:
        return run.measure_peer(peer, servers)
    except RuntimeError as error:
        print(f"{peer.name}: {error}", file=sys.stderr)
        return []


# ---- traffic


@contextmanager
def serving(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def await_answer(client: Client, address: str, port: str) -> None:
    """Wait until the server listens: `traffic serve` does not say when."""
    deadline = time.monotonic() + SECONDS_TO_LISTEN
    while True:
        try:
            client("connect", address, port, "1")
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def measure_turns(
    subjects: Mapping[str, tuple[Client, str, str]], turns: int, milliseconds: int
) -> list[Traffic]:
    """Each subject with its client and the address and port of its server. The first turn warms up.
    Every turn starts with another subject, because what ran before has an effect.
    """
    for client, address, port in subjects.values():
        await_answer(client, address, port)
    found: dict[str, list[Traffic]] = {subject: [] for subject in subjects}
    for turn in range(turns + 1):
        order = list(subjects)
        for subject in order[turn % len(order) :] + order[: turn % len(order)]:
            client, address, port = subjects[subject]
            stream = client("stream", address, port, str(milliseconds))
            ping, connect = (client(action, address, port, times) for action, times in TIMES.items())
            found[subject] += [Traffic(subject, stream, ping, connect)] if turn else []
    return [one for each in found.values() for one in each]


def client_in_server(vsprov: Instance, server: str) -> Client:
    def client(*words: str) -> float:
        done = vsprov("exec", server, "--", "/bin/traffic", *words, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return float(done.stdout)

    return client


def client_in_namespace(namespace: int, program: Path) -> Client:
    return lambda *words: float(peers.call(*world.within(namespace, str(program), *words)))


def apply(vsprov: Instance, folder: Path, lower: Path, network: str, servers: Mapping[str, str]) -> None:
    """Apply servers on a network, each with these keys; all but one called client run `traffic serve`."""
    documents = [HEAD.format(kind="Image", name="bench", spec=f"{{source: {{directory: {lower}}}}}")]
    documents += [HEAD.format(kind="Network", name="lan", spec=network)]
    for name, keys in servers.items():
        command = "/bin/sleep, infinity" if name == "client" else f"/bin/traffic, serve, '{PORT}'"
        spec = f"{{image: bench, init: {{command: [{command}]}}, {keys}}}"
        documents.append(HEAD.format(kind="Server", name=name, spec=spec))
    manifest = folder / f"{vsprov.name}.yaml"
    manifest.write_text("".join(documents))
    vsprov("apply", "-y", manifest)


@contextmanager
def made_by_hand(program: Path, filtered: bool) -> Iterator[tuple[Client, str, str]]:
    """Two namespaces on a bridge in a third one, without any firewall."""
    host, *ends = [world.make_namespace() for _ in range(3)]
    try:
        set_br_netfilter(host, filtered)
        world.run(host, *"ip link add br0 type bridge".split())
        world.run(host, *"ip link set br0 up".split())
        for number, end in enumerate(ends, 1):
            fd = f"/proc/{os.getpid()}/fd/{end}"
            pair = f"link add v{number} up master br0 type veth peer name eth0 netns {fd}"
            world.run(host, "ip", *pair.split())
            world.run(end, *f"ip address add 10.233.0.{number}/24 dev eth0".split())
            world.run(end, *"ip link set eth0 up".split())
        with serving(world.within(ends[1], str(program), "serve", PORT)):
            yield client_in_namespace(ends[0], program), "10.233.0.2", PORT
    finally:
        for namespace in (host, *ends):
            os.close(namespace)


def set_br_netfilter(host: int, filtered: bool) -> None:
    """Whether frames on bridges also pass the IP hooks of netfilter, and its connection tracking."""
    if BR_NETFILTER.exists():
        world.run(host, "sh", "-c", f"echo {int(filtered)} > {BR_NETFILTER}")


def measure_bridge(options: argparse.Namespace, lower: Path, folder: Path, filtered: bool) -> list[Traffic]:
    """Links of vsprov beside links made by hand, both with processes of the host in the namespaces, so that
    the links are all that differs; and then with processes in the servers, as users have it.
    """
    program = folder / "traffic"
    interface = "interfaces: [{{name: eth0, network: lan, addresses: [10.232.0.{}]}}]"
    guarded = f"firewall: {{ingress: [{{protocol: tcp, ports: ['{PORT}', '7001']}}]}}"
    servers = {
        "client": interface.format(10),
        "open": interface.format(11),
        "guarded": f"{interface.format(12)}, {guarded}",
    }
    with ExitStack() as stack:
        by_hand = stack.enter_context(made_by_hand(program, filtered))
        there = stack.enter_context(world.made())
        set_br_netfilter(there.host, filtered)
        vsprov = stack.enter_context(own_instance(folder, there.host))
        apply(vsprov, folder, lower, "{subnets: [10.232.0.0/16]}", servers)
        namespaces = {}
        for name in servers:
            namespaces[name] = os.open(f"/proc/{pid_of(vsprov, name)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, namespaces[name])
        outside_of_it = "7001"  # served by processes of the host
        for name in ("open", "guarded"):
            serve = world.within(namespaces[name], str(program), "serve", outside_of_it)
            stack.enter_context(serving(serve))
        near = client_in_namespace(namespaces["client"], program)
        inside = client_in_server(vsprov, "client")
        return measure_turns(
            {
                "by hand": by_hand,
                "bridge": (near, "10.232.0.11", outside_of_it),
                "bridge, firewall": (near, "10.232.0.12", outside_of_it),
                "bridge, in servers": (inside, "10.232.0.11", PORT),
                "firewall, in servers": (inside, "10.232.0.12", PORT),
            },
            options.turns,
            options.milliseconds,
        )


def pid_of(vsprov: Instance, server: str) -> int:
    found = json.loads(vsprov("get", "server", server, "-o", "json").stdout)
    return int(found["status"]["pid"])


def measure_ports(options: argparse.Namespace, lower: Path, folder: Path) -> list[Traffic]:
    with ExitStack() as stack:
        subjects: dict[str, tuple[Client, str, str]] = {}
        for count in (1, options.ports):
            there = stack.enter_context(world.made())
            vsprov = stack.enter_context(own_instance(folder, there.host))
            ports = [str(PUBLISHED + 2 * number) for number in range(count)]
            published = ", ".join(f"'{port}:{PORT}'" for port in ports)
            keys = f"interfaces: [{{name: eth0, network: lan}}], ports: [{published}]"
            apply(vsprov, folder, lower, "{subnets: [10.232.0.0/16]}", {"web": keys})
            client = client_in_namespace(there.outside, folder / "traffic")
            subjects[f"{count} published"] = (client, world.HOST4, ports[-1])
        return measure_turns(subjects, options.turns, options.milliseconds)


# ---- tables


def print_servers(samples: Sequence[Sample]) -> None:
    found = medians(samples)
    actions = ("up", "again", "change", "open", "down")
    heads = [*(f"{action} ms" for action in actions), "per server", "up/floor", "down/floor", "up/plain"]
    print(f"\n{'servers':>7} {'':20}" + "".join(f"{head:>11}" for head in heads))
    order = dict.fromkeys((servers, subject) for subject, servers, _ in found)
    for servers, subject in sorted(order, key=lambda each: each[0]):
        bridge = "," in subject

        def value(action: str, of: str = subject, n: int = servers) -> float | None:
            return found.get((of, n, action))

        floor = "floor, veth" if bridge else "floor"
        cells = [
            *(cell(value(action), "{:.1f}") for action in actions),
            cell(value("up"), "{:.2f}", servers),
            cell(value("up"), "{:.2f}", value("up", floor)),
            cell(value("down"), "{:.2f}", value("down", floor)),
            cell(value("up"), "{:.2f}", value("up", subject.partition(",")[0]) if bridge else None),
        ]
        print(f"{servers:>7} {subject:20}" + "".join(f"{text:>11}" for text in cells))


def print_traffic(title: str, found: Sequence[Traffic]) -> None:
    """Medians, and medians of the ratios to the first subject in the same turn; more is better in each."""
    heads = ("MB/s", "ratio", "ping us", "ratio", "connect us", "ratio")
    print(f"\n{title:28}" + "".join(f"{head:>11}" for head in heads))
    turns: dict[str, list[Traffic]] = {}
    for one in found:
        turns.setdefault(one.subject, []).append(one)
    for subject, own in turns.items():
        cells = []
        for name, unit in (("stream", 1e6), ("ping", 1e3), ("connect", 1e3)):
            values = [getattr(one, name) for one in own]
            bases = [getattr(one, name) for one in turns[found[0].subject]]
            ratios = [a / b if name == "stream" else b / a for a, b in zip(values, bases, strict=True)]
            cells += [f"{statistics.median(values) / unit:.1f}", f"{statistics.median(ratios):.2f}"]
        print(f"{subject:28}" + "".join(f"{text:>11}" for text in cells))


# ---- the program


def read_options() -> argparse.Namespace:
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-networks", description=first)
    parser.add_argument("--servers", default="1,100,1000", help="numbers of servers (1,100,1000)")
    parser.add_argument("--repeat", type=int, default=3, help="number of repeats of servers (3)")
    parser.add_argument("--turns", type=int, default=15, help="number of turns of traffic (15)")
    parser.add_argument("--milliseconds", type=int, default=300, help="time of one stream (300)")
    parser.add_argument("--ports", type=int, default=1000, help="number of published ports (1000)")
    parser.add_argument(
        "--folder", type=Path, default=SERVERS, help="directory for the files of servers (/var/tmp)"
    )
    parser.add_argument("--peer-servers", type=int, default=100, help="maximum for podman (100)")
    parser.add_argument("--only", default="servers,bridge,ports", help="what to measure (everything)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args()
    options.podman = shutil.which("podman") is not None
    return options


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, object]]]:
    """Measure and print; returns what was measured."""
    lower = run.make_root(folder)
    peers.call("gcc", "-O2", "-static", "-o", folder / "traffic", run.HERE / "traffic.c")
    shutil.copy(folder / "traffic", lower / "bin/traffic")
    only = options.only.split(",")
    measured: dict[str, Sequence[Sample] | Sequence[Traffic]] = {}
    if "servers" in only:
        measured["servers"] = samples = measure_servers(options, lower, folder)
        print_servers(samples)
    if "bridge" in only:
        measured["bridge"] = traffic = measure_bridge(options, lower, folder, filtered=False)
        print_traffic("between two servers", traffic)
    if "bridge" in only and BR_NETFILTER.exists():
        measured["br_netfilter"] = traffic = measure_bridge(options, lower, folder, filtered=True)
        print_traffic("the same, with br_netfilter", traffic)
    if "ports" in only:
        measured["ports"] = traffic = measure_ports(options, lower, folder)
        print_traffic("from another host", traffic)
    return {name: [asdict(each) for each in found] for name, found in measured.items()}


def main() -> int:
    options = read_options()
    if os.geteuid() != 0:
        print("make bench-networks: starting servers requires root", file=sys.stderr)
        return 77
    run.measure_whole_processes()
    folder = options.folder / f"vt-bench-{secrets.token_hex(4)}"
    folder.mkdir()
    groups = peers.groups()
    host = run.describe_host(folder)
    print(", ".join(f"{name.replace('_', ' ')} {text}" for name, text in host.items()))
    try:
        measured = measure(options, folder)
    except (RuntimeError, AssertionError, subprocess.TimeoutExpired, pytest.fail.Exception) as error:
        print(f"make bench-networks: {error}", file=sys.stderr)
        return 1
    finally:
        run.remove(folder)
        peers.remove_groups(groups)
    if options.json:
        options.json.write_text(json.dumps({"host": host, **measured}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
