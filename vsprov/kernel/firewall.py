"""The instance's nft tables, through nft(8), and rulesets of others that are in the way."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from vsprov.plan.network.ruleset import canonical, command, members_of, table_name
from vsprov.plan.network.state import Member, Tables

if TYPE_CHECKING:
    import subprocess

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 60
_TABLE_FLAGS = re.compile(
    r'({"table": {"family": "\w+", "name": "[^"]*", "handle": \d+, "flags": ).*?(?:(}}(?:, {"|]}))|\s*\Z)',
    re.S,
)
FAMILIES = ("bridge", "inet")  # of the tables of an instance
_CHAINS = "-j list chains"
OUR_LINKS = ("vb", "vs")  # how the names of our bridges and interfaces begin


class Found(Struct, frozen=True):
    """The nft tables of an instance in their canonical form, by family; {} if there are none.

    `foreign` are descriptions of rulesets of others that drop forwarded packets, and what to do about each.
    `lacking` is why the firewall cannot be used on this host, "" if it can. `others` are the interfaces of
    servers of other instances, as `ruleset.members_of`, by instance.
    """

    tables: Tables = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    lacking: str = ""
    others: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)


class Listing:
    """What nft lists of an instance; it runs while the caller does something else, until `finish`.

    The tables of the instance are listed at the same time as the chains of all: usually they exist. Tables of
    others that have no chains do nothing.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._name = table_name(instance)
        self._started: dict[str, subprocess.Popen[str]] = {}
        if _program("nft"):
            own = (_list_table(family, self._name) for family in FAMILIES)
            self._started = {words: _start("nft", *words.split()) for words in (_CHAINS, *own)}

    def finish(self, attempts: int = 3, *, with_others: bool = False) -> Found:
        """What nft shows of the instance, and of others who may be in the way; other instances if asked."""
        if not self._started:
            return Found(lacking="nft is not installed; Debian has it in the package nftables")
        results = _finish_all(self._started)
        try:
            chains = [each["chain"] for each in _parse(_text(results[_CHAINS])) if "chain" in each]
        except OSError as error:
            return Found(lacking=error.strerror or str(error))
        present = sorted({(chain["family"], chain["table"]) for chain in chains})
        own = [(family, self._name) for family in FAMILIES]
        own = [one for one in own if one in present or isinstance(results[_list_table(*one)], str)]
        strange = [place for place in present if with_others and _is_of_another(place[1], self._name)]
        dropping = [chain for chain in chains if _may_drop(chain)]
        others = [(chain["family"], chain["table"]) for chain in dropping]
        try:
            more = _outputs(*(_list_table(*place) for place in (*strange, *others)))
            rows = [_parse(_text(results[_list_table(*place)])) for place in own]
        except OSError:  # somebody has just made or removed one of them
            if not attempts:
                raise
            return Listing(self._instance).finish(attempts - 1, with_others=with_others)
        by_instance: dict[str, list[Sequence[Mapping[str, Any]]]] = {}
        for (_, table), text in zip(strange, more[: len(strange)], strict=True):
            by_instance.setdefault(table.removeprefix(table_name("")), []).append(_parse(text))
        rules = map(_parse, more[len(strange) :])
        return Found(
            {family: canonical(found) for (family, _), found in zip(own, rows, strict=True)},
            (*_drops(zip(dropping, rules, strict=True)), *_legacy_drops()),
            others={other: members_of(found) for other, found in by_instance.items()},
        )


def observe(instance: str, *, with_others: bool = False) -> Found:
    """What nft shows of the instance, and of others who may be in the way; other instances if asked for."""
    return Listing(instance).finish(with_others=with_others)


def _is_of_another(table: str, own: str) -> bool:
    """Whether a table is that of another instance."""
    return table.startswith(table_name("")) and table != own


def read(instance: str) -> Tables:
    """The tables of an instance in their canonical form, by family; {} if there are none."""
    return observe(instance).tables


def run(commands: Sequence[Mapping[str, Any]]) -> None:
    """Carry out commands in one transaction. Raises OSError with what nft said."""
    if commands:
        _nft("-f", "-", given="".join(f"{command(each)}\n" for each in commands))


def _may_drop(chain: Mapping[str, Any]) -> bool:
    """Whether a chain is one of others that forwarded packets come to."""
    return chain.get("hook") == "forward" and not chain["table"].startswith(table_name(""))


def _drops(found: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> Iterator[str]:
    """Descriptions of the chains that drop packets of ours, given with all objects of their tables.

    A packet passes only if no base chain drops it, so that our own rules cannot allow it. A ruleset that has
    a rule for our links is left out: whoever manages it knows of them.
    """
    for chain, rules in found:
        last = [one["rule"]["expr"] for one in rules if _is_rule_of(one, chain["name"])][-1:]
        drops = chain.get("policy") == "drop" or any(map(_drops_all, last))
        if drops and not any(map(_names_our_links, rules)):
            yield _describe(chain["family"], chain["table"], chain["name"], rules)


def _is_rule_of(each: Mapping[str, Any], chain: str) -> bool:
    return bool("rule" in each and each["rule"]["chain"] == chain)


def _drops_all(expressions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a rule drops or rejects whatever comes to it."""
    kinds = [kind for each in expressions for kind in each]
    return set(kinds) <= {"counter", "log", "limit", "drop", "reject"} and kinds[-1] in ("drop", "reject")


def _names_our_links(each: Mapping[str, Any]) -> bool:
    """Whether a rule is about links with names as ours, and does not drop."""
    expressions = each.get("rule", {}).get("expr", ())
    links = [one["match"]["right"] for one in expressions if _is_about_links(one)]
    ours = any(isinstance(name, str) and name.startswith(OUR_LINKS) for name in links)
    return ours and not ({"drop", "reject"} & {kind for one in expressions for kind in one})


def _is_about_links(one: Mapping[str, Any]) -> bool:
    left = one.get("match", {}).get("left", {})
    return isinstance(left, dict) and left.get("meta", {}).get("key") in ("iifname", "oifname")


def _describe(family: str, table: str, chain: str, rules: Sequence[Mapping[str, Any]]) -> str:
    names = {each["chain"]["name"] for each in rules if "chain" in each}
    what = f"chain {chain} of table {table} ({family}) drops forwarded packets"
    iptables = "ip6tables" if family == "ip6" else "iptables"
    if table == "firewalld":
        add = "firewall-cmd --zone=trusted --add-interface=BRIDGE"
        return f"firewalld: {what}; add the bridges to a zone: {add}"
    if any(name.startswith("ufw") for name in names):
        return f"ufw: {what}; allow them: ufw route allow in on BRIDGE, ufw route allow out on BRIDGE"
    if "DOCKER-USER" in names:
        rule = f"{iptables} -I DOCKER-USER"
        return f"Docker: {what}; allow them: {rule} -i vb+ -j ACCEPT, {rule} -o vb+ -j ACCEPT"
    if chain == "FORWARD":
        rule = f"{iptables} -I FORWARD"
        return f"{what}; allow them: {rule} -i vb+ -j ACCEPT, {rule} -o vb+ -j ACCEPT"
    rule = f"nft insert rule {family} {table} {chain}"
    return f"{what}; allow them: {rule} iifname 'vb*' accept, {rule} oifname 'vb*' accept"


def _legacy_drops() -> Iterator[str]:
    """The same of the tables of iptables-legacy(8), which nft does not show."""
    for names, program in (("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")):
        try:
            with open(f"/proc/thread-self/net/{names}") as file:
                loaded = "filter" in file.read().split()
        except FileNotFoundError:  # the module is not loaded
            loaded = False
        if loaded and _program(program):
            rules = _output(program, "-S").splitlines()
            last = [rule for rule in rules if rule.startswith("-A FORWARD ")][-1:]
            drops = "-P FORWARD DROP" in rules or last in (["-A FORWARD -j DROP"], ["-A FORWARD -j REJECT"])
            if drops and not any(f" -i {name}" in rule for rule in rules for name in OUR_LINKS):
                family = "ip6" if program.startswith("ip6") else "ip"
                chains = [{"chain": {"name": rule.split()[1]}} for rule in rules if rule.startswith("-N ")]
                yield _describe(family, "filter", "FORWARD", chains)


def _program(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _list_table(family: str, table: str) -> str:
    """The words for nft that list a table, protocols by number. One nft cannot list two."""
    return f"-j -p list table {family} {table}"


def _outputs(*commands: str) -> list[str]:
    """What nft prints for each of these commands, all at once."""
    results = _finish_all({words: _start("nft", *words.split()) for words in commands})
    return [_text(results[words]) for words in commands]


def _finish_all(started: Mapping[str, subprocess.Popen[str]]) -> dict[str, str | OSError]:
    """What programs print that were started, or why they failed, by their words."""
    results: dict[str, str | OSError] = {}
    for words, one in started.items():
        try:
            results[words] = _finish(one)
        except OSError as error:
            results[words] = error
    return results


def _text(result: str | OSError) -> str:
    if isinstance(result, OSError):
        raise result
    return result


def _parse(output: str) -> list[Mapping[str, Any]]:
    """The objects of `nft -j list`.

    If a table has flags, such as dormant, nft 1.0.6 prints part of its memory instead, or ends there.
    """
    clean = _TABLE_FLAGS.sub(lambda found: f'{found[1]}["some"]{found[2] or "}}]}"}', output)
    try:
        found: list[Mapping[str, Any]] = json.loads(clean, strict=False)["nftables"]
    except ValueError as error:
        raise OSError(errno.EPROTO, f"nft: its list is not JSON: {error}") from None
    return found


def _nft(*words: str, given: str = "") -> str:
    return _output("nft", *words, given=given)


def _output(name: str, *words: str, given: str = "") -> str:
    """What a program prints. It runs in the network namespace of the calling thread."""
    return _finish(_start(name, *words), given)


def _start(name: str, *words: str) -> subprocess.Popen[str]:
    import subprocess  # slow to import

    program = _program(name)
    if not program:
        raise FileNotFoundError(errno.ENOENT, f"{name} is not installed", name)
    pipe, environment = subprocess.PIPE, {**os.environ, "LC_ALL": "C"}
    return subprocess.Popen(
        [program, *words],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="backslashreplace",
        env=environment,
    )


def _finish(running: subprocess.Popen[str], given: str = "") -> str:
    """What a program that was started prints; OSError with its message if it fails or takes too long."""
    import subprocess

    name = os.path.basename(str(running.args[0]))  # type: ignore[index]
    try:
        output, said = running.communicate(given, _SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        raise TimeoutError(errno.ETIMEDOUT, f"{name}: no answer within {_SECONDS} s") from None
    if running.returncode != 0:
        raise OSError(errno.EIO, f"{name}: {_said(said)}")
    return output


def _said(text: str) -> str:
    """The lines of nft's messages, without the input that it repeats."""
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if "Error" in line) or "; ".join(lines[:1]) or "no message"
