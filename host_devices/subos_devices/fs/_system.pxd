# cython: language_level=3
"""What the compiled twin takes from the C library and the kernel: system calls, and the structures of linux/fuse.h."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from subos_devices.vhost_user._ring cimport iovec

cdef extern from "<fcntl.h>" nogil:
    int O_ACCMODE, O_APPEND, O_TRUNC, O_CLOEXEC, AT_SYMLINK_NOFOLLOW
    int openat(int directory, const char* name, int flags)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int SEEK_END
    int64_t lseek(int fd, int64_t offset, int whence)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_getdents64

cdef extern from "<sys/uio.h>" nogil:
    Py_ssize_t preadv(int fd, const iovec* buffers, int count, int64_t offset)
    Py_ssize_t pread(int fd, void* buffer, size_t size, int64_t offset)
    Py_ssize_t pwritev2(int fd, const iovec* buffers, int count, int64_t offset, int flags)
    int RWF_APPEND
    Py_ssize_t pwrite(int fd, const void* buffer, size_t size, int64_t offset)
    Py_ssize_t pwritev(int fd, const iovec* buffers, int count, int64_t offset)

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec* now)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        uint64_t st_dev, st_ino, st_nlink, st_rdev
        uint32_t st_mode, st_uid, st_gid
        int64_t st_size, st_blksize, st_blocks
        timespec st_atim, st_mtim, st_ctim
    int fstatat(int directory, const char* name, stat_t* status, int flags)

cdef extern from * nogil:
    """
    /* glibc asks for the path "" instead, which costs a tenth more. Its struct stat is the kernel's on these. */
    #if (defined __x86_64__ || defined __aarch64__) && defined SYS_fstat
    #define subos_fstat(fd, status) syscall(SYS_fstat, (fd), (status))
    #else
    #define subos_fstat(fd, status) fstat((fd), (status))
    #endif
    """
    int fstat "subos_fstat" (int fd, stat_t* status)

cdef extern from "<linux/fuse.h>" nogil:
    struct fuse_in_header:
        uint32_t len, opcode
        uint64_t unique, nodeid
        uint32_t gid
    struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique
    struct fuse_attr:
        uint64_t ino, size, blocks, atime, mtime, ctime
        uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize
    struct fuse_attr_out:
        uint64_t attr_valid
        fuse_attr attr
    struct fuse_entry_out:
        uint64_t nodeid, generation, entry_valid, attr_valid
        fuse_attr attr
    struct fuse_open_in:
        uint32_t flags
    struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags
    struct fuse_release_in:
        uint64_t fh
    struct fuse_read_in:
        uint64_t fh, offset
        uint32_t size
    struct fuse_write_in:
        uint64_t fh, offset
        uint32_t size, write_flags
        uint32_t flags
    struct fuse_write_out:
        uint32_t size
    struct fuse_dirent:
        uint64_t ino, off
        uint32_t namelen, type
    int FUSE_LOOKUP, FUSE_GETATTR, FUSE_OPEN, FUSE_READ, FUSE_WRITE, FUSE_RELEASE, FUSE_READDIRPLUS
    int FUSE_ROOT_ID, FUSE_WRITE_CACHE, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH
