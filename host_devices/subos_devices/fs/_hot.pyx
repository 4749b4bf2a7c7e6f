# cython: language_level=3, binding=True
"""The compiled twin of hot.py and of the usual framing of requests.py: read those first.

It has code of its own for the straight course of the operations that come by the million: a node that is known or
open, a file system that is the share's own, buffers as Linux lays them out. It does the whole request then, on the columns of
nodes.py and handles.py, without a Python object. Whatever is out of the ordinary it leaves, untouched, to the plain
handler (`PLAIN`), which then does the whole request; so every rule has one place, and here are only checks.

Guest memory is read once: what decides is copied first. Buffers come from `Virtqueue.gather`, which checks them.
The columns may have been written by another worker, which the guest had taken over: no number in them is an index
before it was compared with the column's length.
"""

from subos_devices.fs import handles, hot, journal, names, nodes, share, statistics
from subos_devices.fs.requests import REFUSALS, errno_of, request_handler

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.errno cimport EBADF, EINTR, EINVAL, ENOENT
from libc.errno cimport errno as c_errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from subos_devices.fs._system cimport *
from subos_devices.vhost_user._ring cimport Handler, Virtqueue, as_tuple, copied, iovec

cdef enum:
    PLAIN = -4096  # beyond every errno: the plain handler is to do this request
    DIRENT_NAME = 19  # offset of d_name in struct linux_dirent64
    PLUS = 152  # bytes of a READDIRPLUS entry before its name
    DIRENTS = 32768
    LONGEST = 1024  # buffers of a chain that is served here; IOV_MAX
    MAX_OPCODES = 64
    SAMPLED = 8  # a power of two
    WORD = 8  # bytes of a place in the memory of names
    DEVICE = 0  # of NodeTable.table, as the next two
    HASH_BUCKETS = 1
    HASH_MASK = 2

cdef int REGULAR = 8, DIRECTORY = 4  # S_IFMT >> 12
cdef uint64_t MAX_NAME = share.MAX_NAME
cdef uint64_t HANDLES = handles.MOST
cdef int OPEN_FLAGS = hot.OPEN_FLAGS
cdef int64_t FINE_TICK = hot.FINE_TICK, COARSE_TICK = hot.COARSE_TICK
cdef int LONGEST_CHAIN = nodes.LONGEST
cdef int ERRORS = statistics.ERRORS, TIMES = statistics.TIMES, BUCKETS = statistics.BUCKETS
cdef int UNIQUE = journal.UNIQUE, STAGE = journal.STAGE, FACTS = journal.FACTS, GIVEN_FILE = journal.GIVEN_FILE
cdef uint64_t BEGUN = journal.BEGUN, NOTED = journal.NOTED
cdef int BYTES_READ = statistics.BYTES_READ, BYTES_WRITTEN = statistics.BYTES_WRITTEN
cdef int UNIT = statistics.UNIT
assert SAMPLED == statistics.SAMPLED and WORD == names.WORD
assert (DEVICE, HASH_BUCKETS, HASH_MASK) == (nodes.DEVICE, nodes.BUCKETS, nodes.MASK)


cdef void* memory_of(object view):
    return PyMemoryView_GET_BUFFER(view).buf


cdef inline int64_t nanoseconds(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return now.tv_sec * 1000000000 + now.tv_nsec


@cython.final
cdef class FsHandler(Handler):
    """Serves the chains of `queue` for `server`."""

    cdef object server, share, nodes, files, descriptors, plain, learn, rename, open_node, slot
    cdef Virtqueue queue
    cdef list operations
    cdef PyObject* rows[MAX_OPCODES]
    cdef tuple _kept  # what the pointers below point into
    # nodes.py and names.py
    cdef uint64_t* table
    cdef uint64_t* inos
    cdef uint64_t* lookups
    cdef uint64_t* opened
    cdef uint32_t* generations
    cdef uint32_t* parents
    cdef uint32_t* links
    cdef uint32_t* heads
    cdef uint32_t* places
    cdef const uint8_t* names
    cdef int32_t* fds
    cdef uint16_t* devices
    cdef uint8_t* kinds
    cdef uint8_t* used
    cdef uint8_t* readable
    # handles.py and statistics.py
    cdef int32_t* file_fds
    cdef uint64_t* counted
    # journal.py
    cdef uint64_t* noted
    cdef uint64_t* given
    cdef uint64_t capacity, names_end, valid, first_token
    cdef int64_t settles
    cdef int proc, limit, open_flags, again_flags
    cdef bint negative, readonly, writeback, shares, met
    cdef iovec buffers[LONGEST]
    cdef char dirents[DIRENTS]

    def __init__(self, server, queue, slot):
        cdef int opcode
        self.server, self.queue = server, queue
        self.share, self.plain, self.slot = server.share, request_handler(server, queue, slot), slot
        self.nodes, self.files, self.descriptors = self.share.nodes, self.share.files, self.share.descriptors
        self.learn, self.rename, self.open_node = self.nodes.learn, self.nodes.rename, self.share.fd
        self.operations = server.operations
        for opcode in range(MAX_OPCODES):
            self.rows[opcode] = NULL
        for hot_opcode, row in server.hot.items():
            self.rows[<int>hot_opcode] = <PyObject*>row
        nodes = self.nodes
        self._kept = (
            nodes.table, nodes.inos, nodes.lookups, nodes.opened, nodes.generations, nodes.parents, nodes.links, nodes.heads,
            nodes.fds, nodes.devices, nodes.kinds, nodes.used, nodes.readable, nodes.names.places, nodes.names.bytes,
            self.files.fds, self.share.statistics.words, server.hot, slot.words, self.share.journal.given,
        )
        self.table, self.inos = <uint64_t*>memory_of(nodes.table), <uint64_t*>memory_of(nodes.inos)
        self.lookups, self.opened = <uint64_t*>memory_of(nodes.lookups), <uint64_t*>memory_of(nodes.opened)
        self.generations, self.parents = <uint32_t*>memory_of(nodes.generations), <uint32_t*>memory_of(nodes.parents)
        self.links, self.heads = <uint32_t*>memory_of(nodes.links), <uint32_t*>memory_of(nodes.heads)
        self.fds, self.devices = <int32_t*>memory_of(nodes.fds), <uint16_t*>memory_of(nodes.devices)
        self.kinds, self.used = <uint8_t*>memory_of(nodes.kinds), <uint8_t*>memory_of(nodes.used)
        self.readable = <uint8_t*>memory_of(nodes.readable)
        self.places, self.names = <uint32_t*>memory_of(nodes.names.places), <uint8_t*>memory_of(nodes.names.bytes)
        self.file_fds = <int32_t*>memory_of(self.files.fds)
        self.counted = <uint64_t*>memory_of(self.share.statistics.words)
        self.noted, self.given = <uint64_t*>memory_of(slot.words), <uint64_t*>memory_of(self.share.journal.given)
        self.capacity, self.valid, self.first_token = nodes.capacity, self.share.valid, server.first_token
        self.names_end = WORD * nodes.names.most
        self.settles = <int64_t>server.cache.settles * 1000000000
        self.proc, self.limit = self.share.proc, self.share.descriptors.limit
        self.negative, self.shares = server.cache.negative, server.shares
        self.readonly, self.writeback = self.share.readonly, server.cache.writeback
        self.open_flags = int(server.cache.opened) | (0 if server.flushes else FOPEN_NOFLUSH)
        self.again_flags = self.open_flags | (FOPEN_KEEP_CACHE if server.cache.compares else 0)

    def __call__(self, tuple words):
        """Serves one chain of `words`, as `drain` does."""
        cdef uint64_t copy[2 * LONGEST]
        cdef Py_ssize_t place, count = len(words)
        if count > 2 * LONGEST:
            return self.plain(words)
        for place in range(count):
            copy[place] = words[place]
        return self.serve(copy, count)

    # --- one request

    cdef int64_t serve(self, uint64_t* words, Py_ssize_t count) except? -9:
        cdef fuse_in_header head
        cdef Py_ssize_t found, readable = 0
        cdef int64_t written
        if not self.met:  # what may be a replay is the plain handler's
            if self.slot.due:
                return self.plain(as_tuple(words, count))
            self.met = True
        if 6 <= count <= 2 * LONGEST:
            found = self.queue.gather(words, count, self.buffers, &readable)
            if readable >= 2 and found > readable and self.buffers[0].iov_len == 40:
                memcpy(&head, self.buffers[0].iov_base, sizeof(head))
                copied()
                if (
                    head.opcode < MAX_OPCODES
                    and head.gid < self.first_token
                    and self.rows[head.opcode] is not NULL
                    and PyList_GET_ITEM(self.operations, head.opcode) is self.rows[head.opcode]
                    and self.buffers[readable].iov_len == sizeof(fuse_out_header)
                ):
                    self.noted[STAGE] = BEGUN
                    copied()  # nor may it store these in another order
                    self.noted[UNIQUE] = head.unique
                    copied()
                    written = self._answer(&head, found, readable)
                    if written != PLAIN:
                        return written
        return self.plain(as_tuple(words, count))

    cdef int64_t _answer(self, fuse_in_header* head, Py_ssize_t found, Py_ssize_t readable) except? -9:
        """Serves a request that has the usual shape, and counts it. Returns its reply's length, or PLAIN."""
        cdef uint64_t* served = &self.counted[head.opcode]
        cdef bint timed = not (served[0] + 1) & (SAMPLED - 1)
        cdef int64_t begun = nanoseconds(CLOCK_MONOTONIC) if timed else 0
        cdef fuse_out_header reply
        cdef int64_t result
        try:
            result = self._operate(head, found, readable)
        except REFUSALS as error:
            result = -errno_of(error)
        if result == PLAIN:
            return PLAIN
        served[0] += 1
        if result < 0:
            self.counted[ERRORS + head.opcode] += 1
        if timed:
            self._took(head.opcode, nanoseconds(CLOCK_MONOTONIC) - begun)
        reply.len = sizeof(reply) + (result if result > 0 else 0)
        reply.error = result if result < 0 else 0
        reply.unique = head.unique
        memcpy(self.buffers[readable].iov_base, &reply, sizeof(reply))
        return reply.len

    cdef int _took(self, uint32_t opcode, int64_t time) except -1:
        cdef uint64_t units = <uint64_t>(time if time > 0 else 0) >> UNIT
        cdef int bits = 0, at
        while bits < 62 and units >> bits:
            bits += 1
        at = bits if bits < 2 else 2 * bits - 2 + <int>(units >> (bits - 2) & 1)
        self.counted[TIMES + <int>opcode * BUCKETS + min(at, BUCKETS - 1)] += 1
        return 0

    cdef int64_t _operate(self, fuse_in_header* head, Py_ssize_t found, Py_ssize_t readable) except? -9:
        """The reply's length without its header, minus an errno, or PLAIN."""
        cdef uint32_t opcode = head.opcode
        cdef Py_ssize_t writable = found - readable
        cdef iovec* arguments = &self.buffers[1]
        cdef iovec* reply = &self.buffers[readable + 1]
        if opcode == FUSE_READ:
            if readable == 2 and arguments.iov_len >= 40:
                return self._read(arguments, reply, writable - 1)
        elif opcode == FUSE_WRITE:
            if readable > 2 and writable == 2 and arguments.iov_len == 40 and reply.iov_len >= 8:
                return self._write(arguments, readable - 2, reply)
        elif readable != 2:
            return PLAIN
        elif opcode == FUSE_RELEASE:
            if writable == 1 and arguments.iov_len >= 24:
                return self._release(arguments)
        elif writable != 2:
            return PLAIN
        elif opcode == FUSE_LOOKUP:
            if reply.iov_len >= sizeof(fuse_entry_out):
                return self._lookup(head.nodeid, arguments, reply)
        elif opcode == FUSE_GETATTR:
            if arguments.iov_len >= 16 and reply.iov_len >= sizeof(fuse_attr_out):
                return self._getattr(head.nodeid, reply)
        elif opcode == FUSE_OPEN:
            if arguments.iov_len >= 8 and reply.iov_len >= sizeof(fuse_open_out):
                return self._open(head.nodeid, arguments, reply)
        elif opcode == FUSE_READDIRPLUS:
            if arguments.iov_len >= 40:
                return self._readdirplus(head.nodeid, arguments, reply)
        return PLAIN

    # --- nodes

    cdef inline bint _known(self, uint64_t nodeid) noexcept:
        return nodeid < self.capacity and self.lookups[nodeid]

    cdef inline const uint8_t* _name(self, uint64_t nodeid) noexcept:
        """Its length, and then its bytes with a NUL: see names.py."""
        cdef uint64_t at = <uint64_t>WORD * self.places[nodeid]
        return self.names + (at if at < self.names_end else 0)

    cdef inline uint64_t _find(self, uint64_t ino) noexcept:
        """The node of an inode on the share's own file system, or 0, also where there is no end of nodes to look at:
        NodeTable.learn finds that, too."""
        cdef uint64_t bucket = ino & self.table[HASH_MASK]
        cdef uint32_t nodeid
        cdef int steps = 0
        if bucket >= self.table[HASH_BUCKETS]:
            bucket &= self.table[HASH_MASK] >> 1
        if bucket >= self.capacity:
            return 0
        nodeid = self.heads[bucket]
        while nodeid and nodeid < self.capacity and (self.inos[nodeid] != ino or self.devices[nodeid]):
            nodeid = self.links[nodeid]
            steps += 1
            if steps > LONGEST_CHAIN:
                return 0
        return nodeid if nodeid < self.capacity else 0

    cdef int64_t _learn(self, uint64_t parent, const char* name, size_t length, const stat_t* status) except? -9:
        """NodeTable.learn of what is on the share's own file system: the node, counted as looked up."""
        cdef uint64_t nodeid = self._find(status.st_ino)
        cdef const uint8_t* before
        if not nodeid or self.kinds[nodeid] != status.st_mode >> 12:
            return self.learn(
                parent, PyBytes_FromStringAndSize(name, length), status.st_dev, status.st_ino, status.st_mode
            )
        if nodeid != <uint64_t>FUSE_ROOT_ID:
            before = self._name(nodeid)
            if self.parents[nodeid] != parent or before[0] != length or memcmp(before + 1, name, length):
                self.rename(nodeid, parent, PyBytes_FromStringAndSize(name, length))
        self.lookups[nodeid] += 1
        return nodeid

    cdef int64_t _lookup(self, uint64_t parent, const iovec* arguments, iovec* reply) except? -9:
        cdef char name[256]
        cdef size_t length = arguments.iov_len - 1
        cdef fuse_entry_out entry
        cdef stat_t status
        cdef int64_t nodeid
        if not 3 <= length <= MAX_NAME or not self._known(parent) or not self.fds[parent]:
            return PLAIN
        memcpy(name, arguments.iov_base, length + 1)
        copied()
        if name[length] or strlen(name) != length or memchr(name, 47, length) is not NULL:
            return PLAIN
        self.used[parent] = 1
        memset(&entry, 0, sizeof(entry))
        if fstatat(self.fds[parent], name, &status, AT_SYMLINK_NOFOLLOW):
            if c_errno != ENOENT or not self.negative:
                return -c_errno
            entry.entry_valid = self.valid
        elif status.st_dev != self.table[DEVICE]:
            return PLAIN
        else:
            nodeid = self._learn(parent, name, length, &status)
            if status.st_mode >> 12 == <uint32_t>DIRECTORY and not self.fds[nodeid]:
                try:
                    self.open_node(nodeid)
                except OSError:
                    pass
            self._fill_entry(&entry, nodeid, &status)
        memcpy(reply.iov_base, &entry, sizeof(entry))
        return sizeof(entry)

    cdef inline void _fill_entry(self, fuse_entry_out* entry, uint64_t nodeid, const stat_t* status) noexcept:
        entry.nodeid, entry.generation = nodeid, self.generations[nodeid]
        entry.entry_valid = entry.attr_valid = self.valid
        fill(&entry.attr, status)

    cdef int64_t _getattr(self, uint64_t nodeid, iovec* reply) except? -9:
        cdef fuse_attr_out answer
        cdef stat_t status
        cdef uint32_t parent
        if not self._known(nodeid) or self.devices[nodeid]:
            return PLAIN
        if self.fds[nodeid]:
            if fstat(self.fds[nodeid], &status):
                return -c_errno
        else:
            parent = self.parents[nodeid]
            if not parent or parent >= self.capacity or not self.fds[parent]:
                return PLAIN
            self.used[parent] = 1
            if (
                fstatat(
                    self.fds[parent],
                    <const char*>self._name(nodeid) + 1,
                    &status,
                    AT_SYMLINK_NOFOLLOW,
                )
                or status.st_ino != self.inos[nodeid]
                or status.st_dev != self.table[DEVICE]
                or status.st_mode >> 12 != self.kinds[nodeid]
            ):
                return PLAIN
        memset(&answer, 0, sizeof(answer))
        answer.attr_valid = self.valid
        fill(&answer.attr, &status)
        memcpy(reply.iov_base, &answer, sizeof(answer))
        return sizeof(answer)

    # --- files

    cdef int64_t _open(self, uint64_t nodeid, const iovec* arguments, iovec* reply) except? -9:
        cdef stat_t status
        cdef uint32_t flags
        cdef bint for_reading, same
        cdef uint64_t now
        cdef char name[12]
        cdef int fd
        memcpy(&flags, arguments.iov_base, sizeof(flags))
        copied()
        if not self._known(nodeid) or flags & <uint32_t>O_TRUNC:
            return PLAIN
        self.given[GIVEN_FILE] = 0
        copied()
        self.noted[STAGE] = <uint64_t>FUSE_OPEN << 8 | NOTED
        for_reading = self.shares and not flags & <uint32_t>O_ACCMODE
        if for_reading and self.readable[nodeid] and not fstat(self.fds[nodeid], &status):
            now = signature(&status)
            if status.st_nlink and self.opened[nodeid] | 1 == now:
                self.used[nodeid] = 1
                same = self._look(nodeid, now, &status)
                return self._put_open(reply, self.fds[nodeid], nodeid, self.again_flags if same else self.open_flags)
        if (
            self.kinds[nodeid] != REGULAR
            or flags & <uint32_t>O_ACCMODE == <uint32_t>O_ACCMODE
            or (flags & <uint32_t>O_ACCMODE and (self.readonly or self.writeback))
            or self.files.in_use >= self.limit
        ):
            return PLAIN
        if not self.fds[nodeid]:
            self.open_node(nodeid)
        self.used[nodeid] = 1
        decimal(self.fds[nodeid], name)
        fd = openat(self.proc, name, (<int>flags & OPEN_FLAGS) | O_CLOEXEC)
        if fd < 0:
            return -c_errno
        if fstat(fd, &status) or not status.st_nlink:
            close(fd)
            return PLAIN
        same = self._look(nodeid, signature(&status), &status)
        self._put_open(reply, fd, nodeid, self.again_flags if same else self.open_flags)
        if for_reading:
            self.descriptors.share(nodeid, fd)
        return sizeof(fuse_open_out)

    cdef int64_t _put_open(self, iovec* reply, int fd, uint64_t nodeid, int open_flags) except? -9:
        cdef fuse_open_out answer
        memset(&answer, 0, sizeof(answer))
        answer.open_flags = open_flags
        answer.fh = self.files.add(fd, nodeid)
        memcpy(reply.iov_base, &answer, sizeof(answer))
        return sizeof(answer)

    cdef bint _look(self, uint64_t nodeid, uint64_t now, const stat_t* status) noexcept:
        """See hot.py."""
        cdef bint same = self.opened[nodeid] == now
        cdef int64_t age = nanoseconds(CLOCK_REALTIME) - status.st_ctim.tv_sec * 1000000000 - status.st_ctim.tv_nsec
        if age <= (FINE_TICK if status.st_ctim.tv_nsec else COARSE_TICK):
            self.opened[nodeid] = 0
        else:
            self.opened[nodeid] = now if age > self.settles else now ^ 1
        return same

    cdef inline int _file(self, uint64_t handle) noexcept:
        """The descriptor of a handle, or 0."""
        return self.file_fds[handle] if handle < HANDLES else 0

    cdef int64_t _release(self, const iovec* arguments) except? -9:
        cdef uint64_t handle
        memcpy(&handle, arguments.iov_base, sizeof(handle))
        copied()
        if not self._file(handle):
            return PLAIN
        self.files.remove(handle)
        return 0

    cdef int64_t _read(self, const iovec* arguments, iovec* data, Py_ssize_t count) except? -9:
        cdef fuse_read_in asked
        cdef Py_ssize_t used = 0, done
        cdef uint64_t left
        cdef int fd
        memcpy(&asked, arguments.iov_base, sizeof(asked))
        copied()
        fd = self._file(asked.fh)
        if not fd:
            return -EBADF
        left = asked.size
        while used < count and left:
            data[used].iov_len = min(left, <uint64_t>data[used].iov_len)
            left -= data[used].iov_len
            used += 1
        if not used:
            return 0
        while True:
            if used == 1:
                done = pread(fd, data.iov_base, data.iov_len, <int64_t>asked.offset)
            else:
                done = preadv(fd, data, used, <int64_t>asked.offset)
            if done >= 0:
                self.counted[BYTES_READ] += done
                return done
            if c_errno != EINTR:
                return -c_errno

    cdef int64_t _write(self, const iovec* arguments, Py_ssize_t count, iovec* reply) except? -9:
        cdef fuse_write_in asked
        cdef fuse_write_out answer
        cdef Py_ssize_t place, done
        cdef uint64_t there = 0
        cdef int fd
        memcpy(&asked, arguments.iov_base, sizeof(asked))
        copied()
        fd = self._file(asked.fh)
        if not fd:
            return -EBADF
        for place in range(count):
            there += self.buffers[2 + place].iov_len
        if there != asked.size or asked.write_flags & ~<uint32_t>FUSE_WRITE_CACHE:
            return PLAIN
        if asked.flags & <uint32_t>O_APPEND and not asked.write_flags:
            done = lseek(fd, 0, SEEK_END)
            if done < 0:
                return -c_errno
            self.noted[FACTS] = done
            copied()
            self.noted[STAGE] = <uint64_t>FUSE_WRITE << 8 | NOTED
        while True:
            if asked.flags & <uint32_t>O_APPEND and not asked.write_flags:
                done = pwritev2(fd, &self.buffers[2], count, <int64_t>asked.offset, RWF_APPEND)
            elif count == 1:
                done = pwrite(fd, self.buffers[2].iov_base, self.buffers[2].iov_len, <int64_t>asked.offset)
            else:
                done = pwritev(fd, &self.buffers[2], count, <int64_t>asked.offset)
            if done >= 0:
                break
            if c_errno != EINTR:
                return -c_errno
        self.counted[BYTES_WRITTEN] += done
        memset(&answer, 0, sizeof(answer))
        answer.size = done
        memcpy(reply.iov_base, &answer, 8)
        return 8

    # --- directories

    cdef int64_t _readdirplus(self, uint64_t parent, const iovec* arguments, iovec* reply) except? -9:
        """See directories.py. An entry on another file system ends the reply, or is the plain handler's."""
        cdef fuse_read_in asked
        cdef int64_t at, end, cookie, told = 0, room, size, nodeid
        cdef object directory
        cdef bytes buffer
        cdef const char* entry
        cdef const char* name
        cdef size_t length
        cdef uint16_t record
        cdef fuse_entry_out node
        cdef fuse_dirent dirent
        cdef stat_t status
        cdef int fd
        memcpy(&asked, arguments.iov_base, sizeof(asked))
        copied()
        directory = self.files.directories.get(asked.fh)
        if directory is None:
            return -EBADF
        if directory.nodeid != parent or parent >= self.capacity or self.devices[parent]:
            return PLAIN
        fd, at, end, cookie, buffer = directory.fd, directory.at, directory.end, directory.cookie, directory.buffer
        directory.cookie = -1  # whoever comes next seeks, should this not get to its end
        if not asked.offset or <int64_t>asked.offset != cookie:
            if lseek(fd, <int64_t>asked.offset, 0) < 0:
                return -c_errno
            at = end = 0
            cookie = <int64_t>asked.offset
        room = min(<uint64_t>asked.size, <uint64_t>reply.iov_len)
        while True:
            if at >= end:
                end = syscall(SYS_getdents64, fd, self.dirents, DIRENTS)
                if end < 0:
                    return -c_errno
                buffer = PyBytes_FromStringAndSize(self.dirents, end)
                at = 0
                if not end:
                    break
            entry = PyBytes_AS_STRING(buffer) + at
            memcpy(&record, entry + 16, sizeof(record))
            name = entry + DIRENT_NAME
            length = strlen(name)
            size = (PLUS + length + 7) & ~7
            if told + size > room:
                break
            memset(&node, 0, sizeof(node))
            memset(&dirent, 0, sizeof(dirent))
            memcpy(&dirent.ino, entry, 16)  # and off
            dirent.namelen, dirent.type = length, (<const uint8_t*>entry)[18]
            if name[0] == 46 and (length == 1 or (length == 2 and name[1] == 46)):
                if length == 2 and parent == <uint64_t>FUSE_ROOT_ID:
                    dirent.ino = self.inos[FUSE_ROOT_ID]  # not what lies above the share
            elif length > MAX_NAME or fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW):
                if length <= MAX_NAME and c_errno == ENOENT:
                    cookie = <int64_t>dirent.off
                    at += record
                    continue
            elif status.st_dev != self.table[DEVICE]:
                if not told:
                    return PLAIN
                break
            else:
                nodeid = self._learn(parent, name, length, &status)
                self._fill_entry(&node, nodeid, &status)
                dirent.ino, dirent.type = status.st_ino, status.st_mode >> 12
            memcpy(<char*>reply.iov_base + told, &node, sizeof(node))
            memcpy(<char*>reply.iov_base + told + sizeof(node), &dirent, sizeof(dirent))
            memset(<char*>reply.iov_base + told + size - 8, 0, 8)
            memcpy(<char*>reply.iov_base + told + PLUS, name, length)
            told += size
            cookie = <int64_t>dirent.off
            at += record
        directory.at, directory.end, directory.cookie, directory.buffer = at, end, cookie, buffer
        return told if told or at >= end else -EINVAL


cdef inline void fill(fuse_attr* attr, const stat_t* status) noexcept nogil:
    attr.ino, attr.size, attr.blocks = status.st_ino, status.st_size, status.st_blocks
    attr.atime, attr.atimensec = status.st_atim.tv_sec, status.st_atim.tv_nsec
    attr.mtime, attr.mtimensec = status.st_mtim.tv_sec, status.st_mtim.tv_nsec
    attr.ctime, attr.ctimensec = status.st_ctim.tv_sec, status.st_ctim.tv_nsec
    attr.mode, attr.nlink = status.st_mode, <uint32_t>status.st_nlink
    attr.uid, attr.gid = status.st_uid, status.st_gid
    attr.rdev, attr.blksize = <uint32_t>status.st_rdev, <uint32_t>status.st_blksize


cdef inline uint64_t signature(const stat_t* status) noexcept nogil:
    """What changes with a file's content, times or mode."""
    cdef uint64_t value = mixed(<uint64_t>(status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec))
    value = mixed(value ^ <uint64_t>(status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec))
    return mixed(value ^ <uint64_t>status.st_size) | 1  # SETTLED


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    """Scatters the bits of `value` (the finalizer of splitmix64)."""
    value = (value ^ value >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ value >> 27) * <uint64_t>0x94D049BB133111EB
    return value ^ value >> 31


cdef inline void decimal(uint32_t number, char* text) noexcept nogil:
    """The digits of a number, and a NUL, into `text` of 12 bytes."""
    cdef char digits[12]
    cdef int count = 0, place
    while True:
        digits[count] = 48 + number % 10
        count += 1
        number //= 10
        if not number:
            break
    for place in range(count):
        text[place] = digits[count - 1 - place]
    text[count] = 0
