"""What tests of the network share: a daemon on a tiny model with listeners on loopback, and cases that print TAP."""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import attnd_client as net

BUILD = os.path.realpath(os.environ.get("ATTND_BUILD") or os.environ.get("O") or "build")
ROOT = os.path.realpath(f"{os.path.dirname(os.path.realpath(__file__))}/../..")


class Broken(Exception):
    """A case's verdict, with what was seen."""


def expect(truth, what, *seen):
    if not truth:
        raise Broken(what + "".join(f"\n{thing}" for thing in seen))


def expect_ok(request):
    expect(request.completion.status == net.OK, f"status {request.completion.status} for {net.RECORD.unpack(request.record)}")
    return request


def free_port():
    """A port that nobody has, by TCP and by UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


class World:
    """The daemon, its keys, and the addresses of its listeners."""

    def __init__(self, folder, options):
        self.folder, self.options, self.daemon, self.seed = folder, options, None, 0
        self.key, self.stranger = os.urandom(32), os.urandom(32)
        port = free_port()
        self.addresses = {"tcp": f"tcp:127.0.0.1:{port}", "udp": f"udp:127.0.0.1:{port}", "unix": f"unix:{folder}/net.sock"}
        self.shared = f"shm:{folder}/attnd.sock"
        self.model = f"{folder}/tiny.gguf"

    def start(self):
        key_file = f"{self.folder}/key"
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(self.key.hex() + "\n")
        subprocess.run([f"{BUILD}/attnquant", "make-tiny", "-o", self.model], check=True, stdout=subprocess.DEVNULL)
        options = {"daemon.runtime_dir": self.folder, "kv.pool": "64M", "model.tiny.path": self.model, "placement.idle": "sleep",
                   "tenant.local.uid": os.getuid(), "tenant.distant.key_file": key_file, **self.options}
        for name, address in self.addresses.items():
            options.update({f"listen.{name}.address": address, f"listen.{name}.plain": "yes", f"listen.{name}.tenant": "local"})
        command = [f"{BUILD}/attnd", "-c", "/dev/null"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        with open(f"{self.folder}/log", "w") as log:
            self.daemon = subprocess.Popen(command, stderr=log)
        until = time.monotonic() + 60
        while " ready " not in self.log():
            expect(self.daemon.poll() is None and time.monotonic() < until, "the daemon does not start", self.log())
            time.sleep(0.05)

    def log(self):
        with open(f"{self.folder}/log") as file:
            return file.read()

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            status = self.daemon.wait(30)
            expect(status == 0, f"the daemon ended with {status}", self.log())

    def attnrun(self, *options):
        return subprocess.run([f"{BUILD}/attnrun", "--address", self.shared, *options], check=True, timeout=60,
                              stdout=subprocess.PIPE).stdout.decode()

    def client(self, way, **more):
        """A client by a transport and a cipher, as "tcp-plain"."""
        transport, cipher = way.split("-")
        sealed = {} if cipher == "plain" else {"key": self.key, "cipher": {"aesgcm": 1, "chacha": 2}[cipher]}
        return net.Client(self.addresses[transport], **{**sealed, **more})


def run_cases(cases, options):
    """Runs (name, what, function) against one daemon with options, those whose names have a word of the command line; its status."""
    if sys.argv[1:]:
        cases = [case for case in cases if any(word in case[0] for word in sys.argv[1:])]
    if not all(os.path.exists(f"{BUILD}/{tool}") for tool in ("attnd", "attnrun", "attnquant")):
        print(f"1..0 # SKIP the programs are not in {BUILD}")
        return 77
    cases = [("start", "the daemon starts", World.start)] + cases + [("stop", "the daemon ends", World.stop)]
    print(f"1..{len(cases)}")
    folder, passed = tempfile.mkdtemp(prefix="attnd-net-"), 0
    world = World(folder, options)
    try:
        for number, (name, what, function) in enumerate(cases, 1):
            wrong = None
            try:
                function(world)
            except Broken as verdict:
                wrong = str(verdict)
            except Exception:
                wrong = traceback.format_exc()
            passed += not wrong
            print(f"{'not ' if wrong else ''}ok {number} - {name}: {what}", flush=True)
            for line in (wrong or "").splitlines():
                print(f"# {line}")
            if wrong and name == "start":
                break
    finally:
        if world.daemon and world.daemon.poll() is None:
            world.daemon.kill()
            world.daemon.wait()
        shutil.rmtree(folder)
    print(f"# {passed} of {len(cases)} passed")
    return 0 if passed == len(cases) else 1
