# cython: language_level=3, binding=True
"""The compiled twin of virtqueue.py: the same methods, the same rules, the same errors. Read that one first.

Guest memory is read and written through C pointers, each of which `find` has checked. A descriptor table is copied
once into memory of our own, and only the copy is looked at. Every shared index is one aligned atomic access:
`avail.idx` is read with acquire and `used.idx` written with release, and full fences stand where virtqueue.py has
them, so that it holds on any processor.

A device model that is compiled, too, gives `drain` a Handler; no Python object is made for a request then.
"""

from operator import attrgetter
from time import monotonic

from subos_devices.vhost_user import virtqueue
from subos_devices.vhost_user.deferred import Deferred
from subos_devices.vhost_user.errors import BadChain, RingError
from subos_protocol import virtio
from subos_protocol.virtio import avail_ring_size, used_ring_size

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.errno cimport EAGAIN, EINTR
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from posix.unistd cimport write

cdef enum:
    FLAGS = 0  # the shared words that begin both rings
    IDX = 1

cdef int MAX_QUEUE_SIZE = virtio.MAX_QUEUE_SIZE
cdef uint16_t AVAIL_NO_INTERRUPT = virtio.AVAIL_NO_INTERRUPT
cdef uint16_t USED_NO_NOTIFY = virtio.USED_NO_NOTIFY
cdef Py_ssize_t LONGEST_CHAIN = virtqueue.LONGEST_CHAIN
cdef uint16_t DRAIN_SLICE = virtqueue.DRAIN_SLICE
cdef double DRAIN_TIME = virtqueue.DRAIN_TIME
cdef int64_t LATER = virtqueue.LATER
cdef object Chain = virtqueue.Chain


cdef class Handler:
    cdef int64_t serve(self, uint64_t* words, Py_ssize_t count) except? -9:
        """Serves one chain; returns the bytes written into it, or LATER.

        `words`, `count` of them, are as virtqueue.Words says: unchecked. They are the handler's until it returns, to
        change, too; the queue's other methods may overwrite them."""
        raise NotImplementedError


cdef tuple as_tuple(const uint64_t* words, Py_ssize_t count):
    """`words` as a callable in Python gets them."""
    cdef tuple copy = PyTuple_New(count)
    cdef Py_ssize_t place
    cdef object word
    for place in range(count):
        word = words[place]
        Py_INCREF(word)
        PyTuple_SET_ITEM(copy, place, word)
    return copy


@cython.final
@cython.freelist(4)
cdef class Calls(Handler):
    """Any Python callable as a Handler: it is called with a tuple of the words."""

    cdef object handle

    cdef int64_t serve(self, uint64_t* words, Py_ssize_t count) except? -9:
        return self.handle(as_tuple(words, count))


by_size = attrgetter("size")


cdef Handler handler_of(object handle):
    cdef Calls calls
    if isinstance(handle, Handler):
        return handle
    calls = Calls.__new__(Calls)
    calls.handle = handle
    return calls


cdef class Virtqueue:
    """See virtqueue.Virtqueue."""

    def __cinit__(
        self, int index, object size, object memory, uint64_t desc, uint64_t avail, uint64_t used,
        *, object base=0, int call=-1, bint event_idx=True, object deferred=(),
    ):
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise RingError(f"queue {index}: a size of {size} is no power of two up to {MAX_QUEUE_SIZE}")
        if desc % 16 or avail % 2 or used % 4:
            raise RingError(f"queue {index}: rings at {desc:#x}, {avail:#x}, {used:#x} are misaligned")
        self.index = index
        self.size = size
        self.memory = memory
        self.call = call
        self.event_idx = event_idx
        self.more = False
        self.served = 0
        self.deferred = deferred if isinstance(deferred, Deferred) else Deferred.of(deferred)
        self._locate_memory()
        self._locate_rings(desc, avail, used)
        self._longest = max(<Py_ssize_t>self.size, LONGEST_CHAIN)
        self._words = <uint64_t*>PyMem_Malloc(16 * self._longest)
        if self._words is NULL:
            raise MemoryError
        self.next_avail = base & 0xFFFF
        self._used_index = load(&self._used[IDX])
        self._signalled = self._used_index

    def __dealloc__(self):
        PyMem_Free(self._words)

    @property
    def used_index(self):
        """`used.idx`: how many chains were given back."""
        return self._used_index

    @property
    def base(self):
        """Where a queue set up anew must begin to take chains."""
        return (self._used_index + len(self.deferred)) & 0xFFFF

    @property
    def deferral_room(self):
        """How many more chains may be answered LATER."""
        return self.deferred.room

    cdef int _locate_memory(self) except -1:
        """Takes the addresses of all spans. `_views` keeps them mapped."""
        cdef Py_buffer* buffer
        cdef Span* span
        cdef list views = []
        for found in sorted(self.memory.spans, key=by_size, reverse=True):
            if self.spans.count == MAX_SPANS:
                raise RingError(f"queue {self.index}: guest memory of more than {MAX_SPANS} spans")
            views.append(found.view)
            buffer = PyMemoryView_GET_BUFFER(found.view)
            span = &self.spans.spans[self.spans.count]
            span.base, span.size, span.data = found.base, buffer.len, <char*>buffer.buf
            if buffer.readonly or span.size != found.size:
                raise RingError(f"queue {self.index}: guest memory at {found.base:#x} is not what it says")
            self.spans.count += 1
        self._views = tuple(views)
        return 0

    cdef int _locate_rings(self, uint64_t desc, uint64_t avail, uint64_t used) except -1:
        """As guest addresses are aligned, so must ours be, for accesses to be atomic."""
        self._table = self._ring(desc, 16 * self.size)
        self._avail = <uint16_t*>self._ring(avail, avail_ring_size(self.size))
        self._used = <uint16_t*>self._ring(used, used_ring_size(self.size))
        if <uintptr_t>self._avail % 2 or <uintptr_t>self._used % 4:
            raise RingError(f"queue {self.index}: guest memory is mapped where rings are misaligned")
        self._elements = <uint32_t*>(self._used + 2)
        self._used_event = self._avail + 2 + self.size
        self._avail_event = self._used + 2 + 4 * self.size
        return 0

    cdef char* _ring(self, uint64_t address, uint64_t length) except NULL:
        cdef char* place = find(&self.spans, address, length)
        if place is NULL:
            raise outside(address, length)
        return place

    cdef char* at(self, uint64_t address, uint64_t length) noexcept:
        """`length` bytes at guest-physical `address`, or NULL where they do not lie in one span."""
        return find(&self.spans, address, length)

    # --- chains that are kept

    def pop(self):
        """The next available chain, or None, after which the driver will kick again."""
        cdef uint16_t available = load_acquire(&self._avail[IDX])
        cdef int head
        if available == self.next_avail:
            self._ask_for_kick()
            fence()
            available = load_acquire(&self._avail[IDX])
            if available == self.next_avail:
                return None
        self._check_jump(available)
        head = self._next_head()
        return Chain(head, *self._split(self._words, self._chain(head)))

    def push(self, uint32_t head, int64_t written):
        """Gives a chain back, `written` bytes in its writable buffers filled. `signal` tells the driver."""
        self._give(head, written)

    def signal(self):
        """Interrupts the driver if it wants to hear of what was pushed since the last time."""
        if self._used_index != self._signalled:
            fence()
            self._tell()

    def interrupt(self):
        """Interrupts the driver whatever it wants: after a respawn, nobody knows what it was told."""
        self._interrupt()

    # --- chains that are finished at once

    def drain(self, handle):
        """Calls `handle`, a Handler or a callable of a tuple of words, for every available chain.

        It returns the bytes written, or LATER, which keeps the chain for `retry`. Ends when the ring is empty and
        the driver will kick again, or after some DRAIN_TIME seconds (`more` is then True). Whatever `handle` raises
        leaves its chain taken and unanswered.
        """
        self._drain(handler_of(handle))

    def retry(self, handle):
        """Calls `handle` again for each chain that was answered LATER; those that are answered now are given back."""
        cdef Handler handler = handler_of(handle)
        cdef Py_ssize_t at
        cdef int64_t written
        cdef uint32_t head
        for at in range(len(self.deferred) - 1, -1, -1):  # backwards: the last takes the place of one that is done
            head = self.deferred[at]
            if head >= <uint32_t>self.size:
                raise RingError(f"queue {self.index}: descriptor {head} of {self.size}")
            written = handler.serve(self._words, self._chain(head))
            if written != LATER:
                self.deferred.settle(at, self._used_index)
                self._give(head, written)
                self.deferred.settled()
        self.signal()

    cdef int _drain(self, Handler handler) except -1:
        cdef uint16_t available, until, previous
        cdef double deadline = 0, now
        cdef int64_t written
        cdef bint first = True
        cdef int head
        self.more = False
        while True:
            available = load_acquire(&self._avail[IDX])
            if available == self.next_avail:
                self._ask_for_kick()
                fence()  # for both: before reading what the driver wants, and what it has added
                self._tell()
                available = load_acquire(&self._avail[IDX])
                if available == self.next_avail:
                    return 0
            self._check_jump(available)
            if not first:  # is it somebody else's turn?
                now = monotonic()
                if deadline and now > deadline:
                    self.more = True
                    return 0
                if not deadline:
                    deadline = now + DRAIN_TIME
            first = False
            if not self.event_idx:
                store(&self._used[FLAGS], USED_NO_NOTIFY)
            until = available
            if <uint16_t>(available - self.next_avail) > DRAIN_SLICE:
                until = self.next_avail + DRAIN_SLICE
            while self.next_avail != until:
                head = self._next_head()
                written = handler.serve(self._words, self._chain(head))
                if written == LATER:
                    self.deferred.append(head)
                    continue
                previous = self._used_index
                self._give(head, written)
                # Unfenced, so it may be missed; the fenced look at the end of the batch makes up for it.
                if self._wants_now(previous):
                    self._signalled = self._used_index
                    self._interrupt()

    cdef inline bint _wants_now(self, uint16_t previous) noexcept:
        if self.event_idx:
            return load(self._used_event) == previous
        return not load(&self._avail[FLAGS]) & AVAIL_NO_INTERRUPT

    cpdef int _ask_for_kick(self) except -1:
        """Says that the driver must kick for the next chain that it adds."""
        if self.event_idx:
            store(self._avail_event, self.next_avail)
        else:
            store(&self._used[FLAGS], 0)
        return 0

    cdef int _tell(self) except -1:
        """Interrupts the driver if it wants to hear of what is new; a fence comes before."""
        cdef uint16_t told = self._signalled
        cdef bint wanted
        if self._used_index == told:
            return 0
        if self.event_idx:
            wanted = <uint16_t>(self._used_index - load(self._used_event) - 1) < <uint16_t>(self._used_index - told)
        else:
            wanted = not load(&self._avail[FLAGS]) & AVAIL_NO_INTERRUPT
        self._signalled = self._used_index
        return self._interrupt() if wanted else 0

    cdef int _interrupt(self) except -1:
        cdef uint64_t one = 1
        while self.call >= 0 and write(self.call, &one, 8) < 0:
            if c_errno == EAGAIN:
                break  # it counts to 2**64 - 2 unread: the driver will look
            if c_errno != EINTR:
                PyErr_SetFromErrno(OSError)
        return 0

    cdef int _check_jump(self, uint16_t available) except -1:
        if <uint16_t>(available - self.next_avail) > self.size:
            raise RingError(
                f"queue {self.index}: the available index jumped from {self.next_avail} to {available}"
            )
        return 0

    cdef int _next_head(self) except -1:
        """Takes the next chain, which is there. Returns its head."""
        cdef uint16_t head = load(&self._avail[2 + (self.next_avail & (self.size - 1))])
        if head >= self.size:
            raise RingError(f"queue {self.index}: descriptor {head} of {self.size}")
        self.next_avail += 1
        return head

    cdef int _give(self, uint32_t head, int64_t written) except -1:
        cdef uint32_t* element = self._elements + 2 * (self._used_index & (self.size - 1))
        if not 0 <= written <= <int64_t>LENGTH:
            raise ValueError(f"queue {self.index}: {written} bytes written into a chain")
        store_word(&element[0], head)
        store_word(&element[1], <uint32_t>written)
        self._used_index += 1
        store_release(&self._used[IDX], self._used_index)
        self.served += 1
        return 0

    # --- descriptors

    def split(self, tuple words):
        """Readable and writable buffers of a chain, bounds-checked. Raises BadChain for anything irregular."""
        cdef Py_ssize_t count = len(words), place
        cdef uint64_t* copy = <uint64_t*>PyMem_Malloc(8 * count)
        if copy is NULL:
            raise MemoryError
        try:
            for place in range(count):
                copy[place] = words[place]
            return self._split(copy, count)
        finally:
            PyMem_Free(copy)

    cdef tuple _split(self, const uint64_t* words, Py_ssize_t count):
        cdef iovec* buffers = <iovec*>PyMem_Malloc(cython.sizeof(iovec) * (count >> 1))
        cdef Py_ssize_t found, readable = 0, place
        if buffers is NULL:
            raise MemoryError
        try:
            found = self.gather(words, count, buffers, &readable)
            return (
                [self._view(&buffers[place]) for place in range(readable)],
                [self._view(&buffers[place]) for place in range(readable, found)],
            )
        finally:
            PyMem_Free(buffers)

    cdef object _view(self, const iovec* buffer):
        """A view of what `gather` found."""
        cdef const Span* span
        cdef uint64_t offset
        cdef int number
        for number in range(self.spans.count):
            span = &self.spans.spans[number]
            offset = <uint64_t>(<uintptr_t>buffer.iov_base - <uintptr_t>span.data)
            if <uintptr_t>buffer.iov_base >= <uintptr_t>span.data and offset + buffer.iov_len <= span.size:
                return self._views[number][offset : offset + buffer.iov_len]
        raise AssertionError("a buffer outside every span")

    cdef Py_ssize_t gather(
        self, const uint64_t* words, Py_ssize_t count, iovec* buffers, Py_ssize_t* readable
    ) except -1:
        """The buffers of a chain, bounds-checked, into `buffers`, which has room for count / 2. Returns how many;
        `readable` of them come first and may be read, the rest written. Raises BadChain for anything irregular."""
        cdef uint64_t address, word, index = 0, descriptors = <uint64_t>count >> 1
        cdef Py_ssize_t found = 0, writable = 0
        cdef char* data
        while <uint64_t>found < descriptors:
            address, word = words[2 * index], words[2 * index + 1]
            if word & INDIRECT:
                raise BadChain(f"queue {self.index}: an indirect table inside a chain")
            if word & WRITE:
                writable += 1
            elif writable:
                raise BadChain(f"queue {self.index}: a readable buffer after a writable one")
            data = find(&self.spans, address, word & LENGTH)
            if data is NULL:
                raise outside(address, word & LENGTH)
            buffers[found].iov_base, buffers[found].iov_len = data, word & LENGTH
            found += 1
            if not word & NEXT:
                readable[0] = found - writable
                return found
            index = word >> 48
            if index >= descriptors:
                raise BadChain(f"queue {self.index}: descriptor {index} of {descriptors}")
        raise BadChain(f"queue {self.index}: a descriptor loop")

    cdef Py_ssize_t _chain(self, uint32_t head) except -1:
        """The chain from `head` (below `size`), through at most one indirect table, laid out in order in `_words`.
        Returns how many words it has."""
        cdef uint64_t address, word, length
        cdef const char* table
        memcpy(self._words, self._table + 16 * <size_t>head, 16)
        copied()
        address, word = self._words[0], self._words[1]
        if not word & INDIRECT:
            return self._follow(self._table, self.size, head)
        length = word & LENGTH
        if word & NEXT or length % 16 or not 16 <= length <= 16 * <uint64_t>MAX_QUEUE_SIZE:
            raise BadChain(
                f"queue {self.index}: an indirect table of {length} bytes, flags {word >> 32 & 0xFFFF:#x}"
            )
        table = find(&self.spans, address, length)
        if table is NULL:
            raise outside(address, length)
        if length > 16 * <uint64_t>LONGEST_CHAIN:
            return self._follow(table, length >> 4, 0)
        memcpy(self._words, table, length)  # unchecked: `gather` does that, or whoever knows a usual shape
        copied()
        return length >> 3

    cdef Py_ssize_t _follow(self, const char* table, uint64_t count, uint64_t index) except -1:
        cdef uint64_t found = 0, limit = min(count, <uint64_t>self._longest), word
        cdef uint64_t* copy
        while True:
            if index >= count:
                raise BadChain(f"queue {self.index}: descriptor {index} of {count}")
            if found >= limit:
                raise BadChain(f"queue {self.index}: a chain of more than {limit} descriptors, or a loop")
            copy = self._words + 2 * found
            memcpy(copy, table + 16 * index, 16)
            copied()
            word = copy[1]
            if word & INDIRECT:
                raise BadChain(f"queue {self.index}: an indirect table inside a chain")
            found += 1
            copy[1] = (word & (LENGTH | NEXT | WRITE)) | found << 48
            if not word & NEXT:
                return 2 * found
            index = word >> 48


cdef object outside(uint64_t address, uint64_t length):
    return BadChain(f"{length} bytes at guest address {address:#x} lie outside guest memory")
