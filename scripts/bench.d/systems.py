"""The file systems that are compared: how each is started, mounted afresh (cold), and taken away again."""

import os
import shutil
import subprocess
import sys
import time


class Unavailable(Exception):
    """Why this system is not part of the run."""


def run(*command, **options):
    """Run to the end; the output is shown only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.strip()[-500:]}")
    return done.stdout


def wait_for(what, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def drop_caches():
    """Written data goes to disk and leaves the page cache. Needs root."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")


class System:
    """One way to store files. `path` is where the workloads work."""

    name = None
    note = ""

    def __init__(self, work):
        self.work = os.path.join(work, self.name)
        self.path = os.path.join(work, self.name, "mnt")
        self.processes = []
        os.makedirs(self.path)

    def spawn(self, name, command, ready=None):
        """Start a daemon in the foreground as a child of ours; `ready` is text that its log must show."""
        log_path = os.path.join(self.work, f"{name}.log")
        with open(log_path, "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        if ready:
            def said():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {open(log_path).read()[-500:]}")
                return ready in open(log_path).read()
            wait_for(f"{name} says '{ready}'", said)
        return log_path

    def start(self):
        pass

    def mount(self):
        pass

    def unmount(self):
        if os.path.ismount(self.path):
            def away():
                return subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL).returncode == 0
            wait_for(f"umount {self.path}", away)

    def cold(self):
        """Nothing cached: neither in the mount, nor in the kernel, nor below the servers."""
        os.sync()
        self.unmount()
        drop_caches()
        self.mount()

    def stop(self):
        """Take everything away, whatever state it is in."""
        if subprocess.run(["mountpoint", "-q", self.path]).returncode == 0:
            subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL)
        if subprocess.run(["mountpoint", "-q", self.path]).returncode == 0:
            subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL)
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


class Local(System):
    name = "local"


class Cairn(System):
    name = "cairn"

    def __init__(self, work, programs, options=""):
        super().__init__(work)
        self.programs = programs
        self.options = ",".join(["allow_other", options]).strip(",")

    def program(self, name):
        path = os.path.join(self.programs, name)
        if not os.path.exists(path):
            raise Unavailable(f"{path} is missing")
        return path

    def listening(self, log):
        return next(line.split()[2] for line in open(log) if line.startswith("listening on "))

    def start(self):
        fsd = self.program("cairn-fsd")
        meta_dir, data_dir = os.path.join(self.work, "meta"), os.path.join(self.work, "data")
        log = self.spawn("meta", [fsd, "meta", "--data-dir", meta_dir, "--listen", "127.0.0.1:0"], "listening on ")
        self.meta = self.listening(log)
        self.spawn("data", [fsd, "data", "--data-dir", data_dir, "--listen", "127.0.0.1:0", "--meta", self.meta], "listening on ")
        self.mount()

    def mount(self):
        run(self.program("cairn-mountd"), f"{self.meta}:/", self.path, "-o", self.options, stdin=subprocess.DEVNULL)

    def status(self):
        return run(self.program("cairn"), "status", "--meta", self.meta, "--json")


class Before(Cairn):
    """Another build of Cairn."""

    name = "before"


class MooseFS(System):
    """One master, one chunk server, one copy. The chunk server refuses loopback addresses: a network namespace with a veth pair
    of its own gives it another one, which costs no more than loopback."""

    name = "moosefs"
    note = "flushes nothing to disk on fsync (HDD_FSYNC_BEFORE_CLOSE = 0, its default)"
    address = "10.213.77.1"

    def __init__(self, work):
        super().__init__(work)
        self.namespace = f"bench{os.getpid()}"

    def inside(self, *command):
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def config(self, name, text):
        path = os.path.join(self.work, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def start(self):
        for program in ("mfsmaster", "mfschunkserver", "mfsmount"):
            if not shutil.which(program):
                raise Unavailable(f"{program} is not installed (Debian: moosefs-master moosefs-chunkserver moosefs-client)")
        if os.geteuid() != 0:
            raise Unavailable("needs root, for its network namespace")
        try:
            run("ip", "netns", "add", self.namespace)
            run(*self.inside("ip", "link", "add", "ve0", "type", "veth", "peer", "name", "ve1"))
            run(*self.inside("ip", "addr", "add", f"{self.address}/24", "dev", "ve0"))
            for link in ("lo", "ve0", "ve1"):
                run(*self.inside("ip", "link", "set", link, "up"))
        except RuntimeError as e:
            raise Unavailable(f"no network namespace: {e}") from None
        for directory in ("master", "chunk", "hdd"):
            os.makedirs(os.path.join(self.work, directory))
        with open(os.path.join(self.work, "master", "metadata.mfs"), "w") as f:
            f.write("MFSM NEW")
        common = "WORKING_USER = root\nWORKING_GROUP = root\nNICE_LEVEL = 0\n"
        exports = self.config("exports.cfg", "* / rw,alldirs,admin,maproot=0:0\n")
        hdd = self.config("hdd.cfg", os.path.join(self.work, "hdd") + "\n")
        topology = self.config("topology.cfg", "")
        master = self.config("master.cfg", common + f"DATA_PATH = {self.work}/master\nEXPORTS_FILENAME = {exports}\n"
                             f"TOPOLOGY_FILENAME = {topology}\nMATOCS_LISTEN_HOST = {self.address}\nMATOCL_LISTEN_HOST = {self.address}\n")
        chunk = self.config("chunk.cfg", common + f"DATA_PATH = {self.work}/chunk\nHDD_CONF_FILENAME = {hdd}\nBIND_HOST = {self.address}\n"
                            f"MASTER_HOST = {self.address}\nCSSERV_LISTEN_HOST = {self.address}\n")
        self.spawn("master", self.inside("mfsmaster", "-f", "-c", master, "start"))
        time.sleep(1)
        self.spawn("chunkserver", self.inside("mfschunkserver", "-f", "-c", chunk, "start"))
        wait_for("MooseFS mounts", self.try_mount, 60)
        run(*self.inside("mfssetgoal", "-r", "1", self.path))
        run(*self.inside("mfssettrashtime", "-r", "0", self.path))
        wait_for("MooseFS stores data", self.try_write, 90)

    def try_mount(self):
        try:
            self.mount()
        except RuntimeError:
            return False
        return True

    def try_write(self):
        probe = os.path.join(self.path, "probe")
        done = subprocess.run(["timeout", "20", "sh", "-c", f"echo x >{probe} && sync {probe}"], stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def mount(self):
        run(*self.inside("mfsmount", self.path, "-H", self.address, "-o", "mfsnice=0"), stdin=subprocess.DEVNULL)

    def stop(self):
        super().stop()
        subprocess.run(["ip", "netns", "del", self.namespace], stderr=subprocess.DEVNULL)


class GlusterFS(System):
    """One brick, one client, one copy."""

    name = "glusterfs"

    def start(self):
        for program in ("glusterd", "gluster", "glusterfs"):
            if not shutil.which(program):
                raise Unavailable(f"{program} is not installed (Debian: glusterfs-server glusterfs-client)")
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        # The brick process alone, by a volume file of our own: no glusterd, nothing written below /var/lib.
        brick = os.path.join(self.work, "brick")
        os.makedirs(brick)
        self.server = self.config("server.vol", SERVER_VOL.format(brick=brick))
        self.client = self.config("client.vol", CLIENT_VOL)
        self.spawn("brick", ["glusterfsd", "-N", "-f", self.server, "-l", f"{self.work}/brick.log", "-p", f"{self.work}/brick.pid"])
        wait_for("GlusterFS mounts", self.try_mount, 30)

    config = MooseFS.config
    try_mount = MooseFS.try_mount

    def mount(self):
        run("glusterfs", "-f", self.client, "-l", f"{self.work}/client.log", "-p", f"{self.work}/client.pid", self.path)
        wait_for("the mount", lambda: os.path.ismount(self.path), 10)
        os.statvfs(self.path)


GLUSTER_PORT = 24977
SERVER_VOL = """
volume posix
  type storage/posix
  option directory {brick}
end-volume
volume locks
  type features/locks
  subvolumes posix
end-volume
volume threads
  type performance/io-threads
  option thread-count 16
  subvolumes locks
end-volume
volume brick
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port %d
  option auth.addr.threads.allow *
  subvolumes threads
end-volume
""" % GLUSTER_PORT
CLIENT_VOL = """
volume remote
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port %d
  option remote-subvolume threads
end-volume
volume writebehind
  type performance/write-behind
  subvolumes remote
end-volume
volume readahead
  type performance/read-ahead
  subvolumes writebehind
end-volume
volume iocache
  type performance/io-cache
  subvolumes readahead
end-volume
volume quick
  type performance/quick-read
  subvolumes iocache
end-volume
volume meta
  type performance/md-cache
  subvolumes quick
end-volume
""" % GLUSTER_PORT


def start_all(wanted, work, programs, cairn_options, before=None):
    """The systems that run, in order; those that can't are named with the reason."""
    makers = {"local": lambda: Local(work), "cairn": lambda: Cairn(work, programs, cairn_options),
              "moosefs": lambda: MooseFS(work), "glusterfs": lambda: GlusterFS(work)}
    if before:
        makers["before"] = lambda: Before(work, before, cairn_options)
    running, missing = [], {}
    unknown = [name for name in wanted if name not in makers]
    if unknown:
        sys.exit(f"scripts/bench: no system is called '{unknown[0]}'; there are {', '.join(makers)}")
    for name in wanted:
        system = makers[name]()
        try:
            system.start()
        except (Unavailable, RuntimeError) as e:
            missing[name] = str(e)
            system.stop()
            print(f"bench: {name} left out: {e}", file=sys.stderr, flush=True)
            continue
        except BaseException:
            system.stop()
            for other in running:
                other.stop()
            raise
        running.append(system)
    return running, missing
