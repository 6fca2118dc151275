"""The spawner: takes requests from its clients, creates guests, sends events back; `wire` describes the
messages.

A guest's first process is a child of the spawner. It waits at its gate, before execve, until its client
releases it. When a client closes its socket, its guests at the gate end and those released live on; after the
last client has gone, the spawner ends.
"""

from __future__ import annotations

import os
import resource
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_STREAM, socket
from errno import EACCES, EBUSY, EEXIST, EXDEV
from select import EPOLLIN, EPOLLOUT, epoll

from ..child.confinement import set_home, set_ids
from ..child.mount_check import misplaced_target
from ..child.program import CHANNEL, GO, PATH, READY, REAPER, WHO
from ..inherited import reset_inherited
from ..mounts import O_PATH, is_directory, open_source, probe_overlay
from ..report import at, describe, exited, failed
from ..sys_calls import (
    PR_SET_DUMPABLE,
    SIGKILL,
    close_others,
    move_high,
    name_process,
    prctl,
    reset_signals,
    sigchld_fd,
)
from ..syscall_list import is_dumped_after_change
from ..users import home, resolve
from ..wire import decode, encode
from .absent import Creation, Creations
from .children import Child, Client, send, start_time
from .equip import binds, equip
from .fork import STDIN, fork
from .namespace_owner import raise_bounds

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Release, Spawn

RECEIVE = 1 << 18  # bytes read at a time


def main(fd: int, in_python: bool) -> None:
    """Serve the client at the other end of the socket `fd` until it closes it."""
    control = None
    try:
        control = take_descriptors(fd)
        loop = Loop(in_python, share_memory=True)
        loop.add_client(control)
    except OSError as error:
        event = encode(failed(0, describe(error)))
        os.write(control.fileno() if control else fd, event)
    else:
        loop.serve()


def take_descriptors(fd: int) -> socket:
    """The socket `fd`, moved away from the numbers that every child's fds have, which are reserved."""
    close_others(fd)
    control = socket(AF_UNIX, SOCK_STREAM, 0, move_high(fd, REAPER + 1))
    for reserved in (CHANNEL, REAPER):
        os.dup2(STDIN, reserved, False)
    return control


class Loop:
    """The event loop, in one thread. It waits only in `serve`, so no client or child can delay another."""

    def __init__(self, in_python: bool, share_memory: bool) -> None:
        """Prepare this process, which gets the name and the signal mask of a spawner.

        `share_memory`: let children share our memory until they execute, which is only safe in a process that
        ends with the command it works for.
        """
        self.in_python = in_python
        self.clients: dict[int, Client] = {}
        self.by_pid: dict[int, Child] = {}
        self.by_channel: dict[int, Child] = {}
        self.creations = Creations()
        prctl(PR_SET_DUMPABLE, 0)
        name_process(b"vsprov-spawner")
        reset_signals()
        at("inherited")
        reset_inherited()
        os.umask(0o022)
        self.sigchld = sigchld_fd()
        self.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)  # what guests get if the request has none
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile[1], self.nofile[1]))
        raise_bounds()
        self.own_memory = not share_memory or is_dumped_after_change()
        at("probe overlay")
        probe_overlay()
        at("epoll")
        self.poller = epoll()
        self.poller.register(self.sigchld, EPOLLIN)

    def add_client(self, control: socket) -> None:
        """Take requests from a stream socket."""
        control.setblocking(False)
        self.poller.register(control.fileno(), EPOLLIN)
        self.clients[control.fileno()] = Client(control)

    def serve(self) -> None:
        """Work until the last client has gone."""
        while self.clients:
            waiting = any(client.queue for client in self.clients.values())
            for fd, mask in self.poller.poll(0 if waiting else self.creations.patience(), 64):
                if fd in self.clients:
                    self.on_client(self.clients[fd], mask)
                elif fd == self.sigchld:
                    os.read(fd, 4096)
                    self.reap()
                elif fd in self.by_channel:
                    self.on_child_message(self.by_channel[fd])
            for creation, error in self.creations.overdue():
                self.path_created(creation, error)
            for client in list(self.clients.values()):
                if client.queue:
                    self.spawn(client, client.queue.pop(0))
                if client.outgoing:
                    self.flush(client)

    # -- clients

    def on_client(self, client: Client, mask: int) -> None:
        """Continue to write to a client, or read from it."""
        if mask & EPOLLOUT:
            self.flush(client)
        if mask & ~EPOLLOUT and not self.receive(client):
            self.drop(client)

    def receive(self, client: Client) -> bool:
        """Read requests and handle them; False at the end of the client."""
        assert client.control
        try:
            part = client.control.recv(RECEIVE)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        client.incoming.extend(part)
        for request in decode(client.incoming):
            if request["cmd"] == "spawn":
                client.queue.append(request)
            else:  # opening a gate is cheap and must not wait for a hundred forks
                self.release(client, request)
        return bool(part)

    def flush(self, client: Client) -> None:
        """Write as much as the client reads now; the loop continues when it reads more."""
        assert client.control
        try:
            sent = client.control.send(client.outgoing, MSG_NOSIGNAL | MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            client.outgoing.clear()  # the client has gone, as the next read will show
            return
        del client.outgoing[:sent]
        self.poller.modify(client.fd, EPOLLIN | EPOLLOUT if client.outgoing else EPOLLIN)

    def drop(self, client: Client) -> None:
        """Forget a client that has gone. Its guests at the gate end, for nobody can release them any more."""
        assert client.control
        self.poller.unregister(client.fd)
        del self.clients[client.fd]
        client.control.close()
        client.control = None
        client.outgoing.clear()
        for child in client.children.values():
            if child.channel and child.state in ("preparing", "ready"):
                self.hang_up(child)

    # -- requests

    def release(self, client: Client, request: Release) -> None:
        """Open the gate of a guest that is ready; one that is not ready fails."""
        number = request["id"]
        child = client.children.get(number)
        early = OSError(EBUSY, "released before it was ready")
        for position, queued in enumerate(client.queue):
            if queued["id"] == number:
                del client.queue[position]
                at("gate")
                client.send(failed(number, describe(early)))
                return
        if child is None:
            return  # it has ended, as an event has reported
        if child.state == "ready" and child.channel:
            child.state = "released"
            send(child.channel, GO)
        elif child.state == "preparing":
            # Its next message may be another question, and GO would be taken for the answer.
            at("gate")
            self.give_up(child, early)

    def spawn(self, client: Client, request: Spawn) -> None:
        """Create one guest; a failure is reported and leaves nothing behind."""
        number, child = request["id"], None
        held: list[int] = []
        try:
            at("start")
            if number in client.children:
                raise OSError(EEXIST, "a guest with this id exists")
            guest = request["guest"]
            if all(limit != resource.RLIMIT_NOFILE for limit, _soft, _hard in guest["rlimits"]):
                guest["rlimits"].append((resource.RLIMIT_NOFILE, *self.nofile))
            sources = []
            for entry in binds(guest):
                at("mount " + entry["target"])
                sources.append(open_source(entry))
                held.append(sources[-1])
            child = Child(client, number, guest["user"])
            directories = [is_directory(source) for source in sources]
            fork(child, guest, directories, held, self.in_python, self.own_memory)
            assert child.channel
            fd = child.channel.fileno()
            client.children[number] = self.by_pid[child.pid] = self.by_channel[fd] = child
            self.poller.register(fd, EPOLLIN)
            equip(child, guest, sources)
        except Exception as error:  # even a malformed request must not end the other guests
            if child and child.pid:
                self.give_up(child, error)
            else:
                client.send(failed(number, describe(error)))
        finally:
            for each in held:
                os.close(each)

    # -- children

    def give_up(self, child: Child, error: Exception) -> None:
        """Kill a child that cannot become a guest; the failure is reported when it is gone."""
        child.failure = describe(error)
        os.kill(child.pid, SIGKILL)

    def on_child_message(self, child: Child) -> None:
        """Handle what a child has written. End of file means that it has executed its command, or ended."""
        while child.channel:
            try:
                message = child.channel.recv(4, MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it has closed its end with a message unread; what it wrote can still be read
            assert child.program
            if message[:1] == PATH:
                self.create_path(child, int.from_bytes(message[1:], "little"))
            elif message and (target := misplaced_target(child.program, child.pid)):
                at(f"mount {target}")
                self.give_up(child, OSError(EXDEV, "it lies on another file system of the server"))
            elif message == WHO:
                self.answer_user(child)
            elif message == READY:
                self.child_ready(child)
            else:
                self.child_executed(child)

    def create_path(self, child: Child, number: int) -> None:
        """Start to create one of the paths that a child may ask for; it waits for GO."""
        assert child.program
        step, path, directory = child.program.absent[number]
        try:
            at(step)
            self.creations.start(child, step, path, directory)
        except OSError as error:
            self.give_up(child, error)

    def path_created(self, creation: Creation, error: OSError | None) -> None:
        """Let the child go on whose path was created, or give it up."""
        child = creation.child
        if self.by_pid.get(child.pid) is not child or not child.channel or child.failure:
            return  # it has ended meanwhile, or is about to
        if error is None:
            send(child.channel, GO)
        else:
            at(creation.step)
            self.give_up(child, error)

    def answer_user(self, child: Child) -> None:
        """Give a child, which has all its mounts by now, the ids of its user by the files in its root."""
        assert child.program and child.channel
        try:
            at("user " + child.user)
            root = os.open(f"/proc/{child.pid}/root", O_PATH | os.O_DIRECTORY)
            try:
                set_ids(child.program, *resolve(child.user, root))
                set_home(child.program, home(child.user, root))
            finally:
                os.close(root)
        except OSError as error:
            self.give_up(child, error)
        else:
            send(child.channel, GO)

    def child_ready(self, child: Child) -> None:
        """Report a child that waits at its gate, unless its working directory is outside its root."""
        assert child.program
        if child.program.is_outside_root():
            at("working directory")
            self.give_up(child, OSError(EACCES, "outside the server's root"))
            return
        child.state = "ready"
        child.client.send(
            {
                "event": "ready",
                "id": child.id,
                "pid": child.pid,
                "start": start_time(child.pid),
                "unmapped": child.unmapped,
                "terminal": child.program.terminal,
            }
        )

    def child_executed(self, child: Child) -> None:
        """Handle the end of a channel: a child that was released, with no call failed, has executed."""
        assert child.program
        self.hang_up(child)
        if child.state == "released" and child.program.memory.failed() is None and not child.failure:
            child.state = "running"
            child.program.memory.release()
            child.program = None
            child.client.send({"event": "running", "id": child.id})

    def hang_up(self, child: Child) -> None:
        """Close our end of a channel; a child that still waits at the other ends."""
        assert child.channel
        fd = child.channel.fileno()
        self.poller.unregister(fd)
        del self.by_channel[fd]
        child.channel.close()
        child.channel = None

    def reap(self) -> None:
        """Collect children that have ended, after their last messages: `running` precedes `exited`."""
        while self.by_pid or self.creations.by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if creation := self.creations.by_pid.pop(pid, None):
                self.path_created(creation, creation.failure(code))
                continue
            child = self.by_pid.pop(pid)
            self.on_child_message(child)
            if child.channel:
                self.hang_up(child)
            if child.program:
                child.failure = child.failure or child.program.failure()
                child.program.memory.release()
            del child.client.children[child.id]
            if child.failure:
                child.client.send(failed(child.id, child.failure))
            elif child.state == "running":
                child.client.send(exited(child.id, code))
            else:
                how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
                child.client.send(failed(child.id, ("gate", 0, None, how)))
