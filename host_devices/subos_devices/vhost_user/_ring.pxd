# cython: language_level=3
"""What a compiled device model takes from the compiled ring: `cimport` it, derive from Handler, and hand that to `drain`."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


# Bits of a word, len | flags << 32 | next << 48; and memory that a driver on another processor reads and writes.
cdef extern from * nogil:
    """
    #define SUBOS_LENGTH 0xFFFFFFFFULL
    #define SUBOS_NEXT (1ULL << 32)
    #define SUBOS_WRITE (2ULL << 32)
    #define SUBOS_INDIRECT (4ULL << 32)

    #define subos_load(place) __atomic_load_n(place, __ATOMIC_RELAXED)
    #define subos_load_acquire(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
    #define subos_store(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
    #define subos_store_release(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
    #define subos_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define subos_copied() __atomic_signal_fence(__ATOMIC_SEQ_CST)
    """
    const uint64_t LENGTH "SUBOS_LENGTH"
    const uint64_t NEXT "SUBOS_NEXT"
    const uint64_t WRITE "SUBOS_WRITE"
    const uint64_t INDIRECT "SUBOS_INDIRECT"
    uint16_t load "subos_load" (uint16_t* place)
    uint16_t load_acquire "subos_load_acquire" (uint16_t* place)
    void store "subos_store" (uint16_t* place, uint16_t value)
    void store_word "subos_store" (uint32_t* place, uint32_t value)
    void store_release "subos_store_release" (uint16_t* place, uint16_t value)
    void fence "subos_fence" ()
    void copied "subos_copied" ()  # the compiler must not read again from where a private copy was made of


cdef enum:
    MAX_SPANS = 8  # MAX_MEM_REGIONS of one SET_MEM_TABLE


cdef struct Span:
    uint64_t base  # guest-physical
    uint64_t size
    char* data


cdef struct Spans:
    Span spans[MAX_SPANS]  # the primary one first
    int count


cdef inline char* find(const Spans* memory, uint64_t address, uint64_t length) noexcept nogil:
    """`length` bytes at guest-physical `address`, or NULL where they do not lie in one span."""
    cdef const Span* span
    cdef int number
    for number in range(memory.count):
        span = &memory.spans[number]
        if address >= span.base and length <= span.size and address - span.base <= span.size - length:
            return span.data + (address - span.base)
    return NULL


cdef class Handler:
    """Serves chains, called by `drain` without any Python in between."""

    cdef int64_t serve(self, uint64_t* words, Py_ssize_t count) except? -9


cdef tuple as_tuple(const uint64_t* words, Py_ssize_t count)


cdef class Virtqueue:
    cdef readonly int index
    cdef readonly int size
    cdef readonly object memory  # a GuestMemory
    cdef public int call
    cdef readonly bint event_idx
    cdef public bint more
    cdef public int64_t served
    cdef readonly object deferred  # a Deferred
    cdef readonly uint16_t next_avail
    cdef Spans spans
    cdef tuple _views  # of the spans, in their order
    cdef uint16_t _used_index, _signalled
    cdef char* _table
    cdef uint16_t* _avail  # flags, idx, ring[size], used_event
    cdef uint16_t* _used  # flags, idx
    cdef uint32_t* _elements  # id, len, …
    cdef uint16_t* _used_event
    cdef uint16_t* _avail_event
    cdef uint64_t* _words  # the chain at hand
    cdef Py_ssize_t _longest  # descriptors that fit there

    cdef char* at(self, uint64_t address, uint64_t length) noexcept
    cdef Py_ssize_t gather(self, const uint64_t* words, Py_ssize_t count, iovec* buffers, Py_ssize_t* readable) except -1
    cdef int _locate_memory(self) except -1
    cdef int _locate_rings(self, uint64_t desc, uint64_t avail, uint64_t used) except -1
    cdef char* _ring(self, uint64_t address, uint64_t length) except NULL
    cdef bint _wants_now(self, uint16_t previous) noexcept
    cpdef int _ask_for_kick(self) except -1
    cdef int _tell(self) except -1
    cdef int _interrupt(self) except -1
    cdef int _check_jump(self, uint16_t available) except -1
    cdef int _next_head(self) except -1
    cdef int _give(self, uint32_t head, int64_t written) except -1
    cdef int _drain(self, Handler handler) except -1
    cdef Py_ssize_t _chain(self, uint32_t head) except -1
    cdef Py_ssize_t _follow(self, const char* table, uint64_t count, uint64_t index) except -1
    cdef object _view(self, const iovec* buffer)
    cdef tuple _split(self, const uint64_t* words, Py_ssize_t count)
