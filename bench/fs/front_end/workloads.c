/* What is measured: operations of one or several FUSE requests each, their replies checked. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front_end.h"

enum { MANY = 1000, MAX_SAMPLES = 4 << 20 };

/* An operation in flight, in the slot of its number. `step` counts its requests. */
struct operation {
    unsigned step, entries;
    uint64_t begun, handle, offset;
    union {
        struct fuse_getattr_in getattr;
        struct fuse_open_in open;
        struct fuse_read_in read;
        struct fuse_write_in write;
        struct fuse_release_in release;
    } arguments;
};

/* build: the request of the present step. finish: digests its reply; whether that was the operation's last. */
struct workload {
    const char *name;
    void (*build)(unsigned slot, struct operation *, struct request *);
    bool (*finish)(unsigned slot, struct operation *);
};

static struct operation operations[MAX_DEPTH];
static uint64_t big, big_size, big_handle, small, many;

static uint64_t random_below(uint64_t bound) /* xorshift64: the same sequence for every back end */
{
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % bound;
}

static void expect_success(unsigned slot, const char *what)
{
    if (slot_error(slot))
        die("%s: %s", what, strerror(-slot_error(slot)));
}

static uint32_t data_length(unsigned slot) { return slot_length(slot) - sizeof(struct fuse_out_header); }

/* Every 4 KiB block of the share's file `big` begins with its own number. */
static void expect_block(unsigned slot, uint64_t offset, uint32_t size)
{
    uint64_t number;

    expect_success(slot, "READ");
    memcpy(&number, slot_data(slot), sizeof number);
    if (data_length(slot) != size || number != offset / PAGE)
        die("READ at %" PRIu64 " gave %u bytes of block %" PRIu64, offset, data_length(slot), number);
}

static struct request open_request(struct operation *op, uint32_t opcode, uint64_t node, uint32_t flags)
{
    op->arguments.open = (struct fuse_open_in){.flags = flags};
    return (struct request){opcode, node, &op->arguments, sizeof op->arguments.open,
                            .reply_size = sizeof(struct fuse_open_out)};
}

static void keep_handle(unsigned slot, struct operation *op)
{
    expect_success(slot, "OPEN");
    op->handle = ((struct fuse_open_out *)slot_reply(slot))->fh;
}

static struct request read_request(struct operation *op, uint32_t opcode, uint64_t node, uint32_t size)
{
    op->arguments.read = (struct fuse_read_in){.fh = op->handle, .offset = op->offset, .size = size};
    return (struct request){opcode, node, &op->arguments, sizeof op->arguments.read, .reply_data_size = size};
}

static struct request release_request(struct operation *op, uint32_t opcode, uint64_t node)
{
    op->arguments.release = (struct fuse_release_in){.fh = op->handle};
    return (struct request){opcode, node, &op->arguments, sizeof op->arguments.release, .data_size = 0};
}

static struct request lookup_request(uint64_t parent, const char *name)
{
    return (struct request){FUSE_LOOKUP, parent, name, strlen(name) + 1,
                            .reply_size = sizeof(struct fuse_entry_out)};
}

/* --- the workloads --- */

static void build_getattr(unsigned slot, struct operation *op, struct request *request)
{
    op->arguments.getattr = (struct fuse_getattr_in){0};
    *request = (struct request){FUSE_GETATTR, big, &op->arguments, sizeof op->arguments.getattr,
                                .reply_size = sizeof(struct fuse_attr_out)};
}

static bool finish_getattr(unsigned slot, struct operation *op)
{
    expect_success(slot, "GETATTR");
    if (((struct fuse_attr_out *)slot_reply(slot))->attr.size != big_size)
        die("GETATTR: wrong size");
    return true;
}

static void build_lookup(unsigned slot, struct operation *op, struct request *request)
{
    *request = lookup_request(many, "file0001");
}

static bool finish_lookup(unsigned slot, struct operation *op)
{
    expect_success(slot, "LOOKUP");
    return true;
}

static void build_missing(unsigned slot, struct operation *op, struct request *request)
{
    *request = lookup_request(many, "nope0001");
}

static bool finish_missing(unsigned slot, struct operation *op)
{
    if (slot_error(slot) != -ENOENT && ((struct fuse_entry_out *)slot_reply(slot))->nodeid != 0)
        die("LOOKUP found what is not there");
    return true;
}

static void build_read(struct operation *op, struct request *request, uint32_t size)
{
    op->handle = big_handle;
    op->offset = random_below(big_size / size) * size;
    *request = read_request(op, FUSE_READ, big, size);
}

static void build_read_4k(unsigned slot, struct operation *op, struct request *request)
{
    build_read(op, request, PAGE);
}

static void build_read_1m(unsigned slot, struct operation *op, struct request *request)
{
    build_read(op, request, MIB);
}

static bool finish_read(unsigned slot, struct operation *op)
{
    expect_block(slot, op->offset, op->arguments.read.size);
    return true;
}

static void build_write(unsigned slot, struct operation *op, struct request *request)
{
    uint64_t block = random_below(big_size / PAGE);

    memcpy(slot_data(slot), &block, sizeof block);
    op->arguments.write = (struct fuse_write_in){.fh = big_handle, .offset = block * PAGE, .size = PAGE};
    *request = (struct request){FUSE_WRITE, big, &op->arguments, sizeof op->arguments.write, .data_size = PAGE,
                                .reply_size = sizeof(struct fuse_write_out)};
}

static bool finish_write(unsigned slot, struct operation *op)
{
    expect_success(slot, "WRITE");
    if (((struct fuse_write_out *)slot_reply(slot))->size != PAGE)
        die("WRITE: short");
    return true;
}

static void build_open_read_release(unsigned slot, struct operation *op, struct request *request)
{
    op->offset = 0;
    *request = op->step == 0   ? open_request(op, FUSE_OPEN, small, O_RDONLY)
               : op->step == 1 ? read_request(op, FUSE_READ, small, PAGE)
                               : release_request(op, FUSE_RELEASE, small);
}

static bool finish_open_read_release(unsigned slot, struct operation *op)
{
    if (op->step == 0)
        keep_handle(slot, op);
    else if (op->step == 1)
        expect_block(slot, 0, PAGE);
    else
        expect_success(slot, "RELEASE");
    return op->step++ == 2;
}

/* Lists the folder with buffers of a page, as Linux before 6.15 does. */
enum { OPENDIR, LIST, RELEASEDIR };

static void build_readdirplus(unsigned slot, struct operation *op, struct request *request)
{
    if (op->step == OPENDIR)
        op->offset = op->entries = 0;
    *request = op->step == OPENDIR ? open_request(op, FUSE_OPENDIR, many, O_RDONLY | O_DIRECTORY)
               : op->step == LIST  ? read_request(op, FUSE_READDIRPLUS, many, PAGE)
                                   : release_request(op, FUSE_RELEASEDIR, many);
}

static bool finish_readdirplus(unsigned slot, struct operation *op)
{
    uint8_t *at, *end;

    if (op->step == RELEASEDIR) {
        expect_success(slot, "RELEASEDIR");
        if (op->entries != MANY)
            die("READDIRPLUS gave %u entries for %d", op->entries, MANY);
        return true;
    }
    if (op->step == OPENDIR) {
        keep_handle(slot, op);
        op->step = LIST;
        return false;
    }
    expect_success(slot, "READDIRPLUS");
    at = slot_data(slot), end = at + data_length(slot);
    if (at == end)
        op->step = RELEASEDIR;
    while (at < end) {
        struct fuse_direntplus *entry = (struct fuse_direntplus *)at;

        op->offset = entry->dirent.off;
        op->entries += entry->dirent.name[0] != '.';
        at += FUSE_DIRENTPLUS_SIZE(entry);
    }
    return false;
}

static const struct workload workloads[] = {
    {"getattr", build_getattr, finish_getattr},
    {"lookup", build_lookup, finish_lookup},
    {"lookup-missing", build_missing, finish_missing},
    {"read-4k", build_read_4k, finish_read},
    {"write-4k", build_write, finish_write},
    {"open-read-release", build_open_read_release, finish_open_read_release},
    {"read-1m", build_read_1m, finish_read},
    {"readdirplus", build_readdirplus, finish_readdirplus},
};

/* --- running them --- */

static void call(const struct request *request, const char *what)
{
    uint32_t written;

    driver_submit(0, request);
    driver_reap(&written);
    expect_success(0, what);
}

static struct fuse_entry_out look_up(const char *name)
{
    struct request request = lookup_request(FUSE_ROOT_ID, name);

    call(&request, name);
    return *(struct fuse_entry_out *)slot_reply(0);
}

void workloads_prepare(void)
{
    struct fuse_init_in init = {
        .major = FUSE_KERNEL_VERSION,
        .minor = 38,
        .max_readahead = 32 * PAGE,
        .flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
                 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                 FUSE_HANDLE_KILLPRIV | FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS,
    };
    struct fuse_entry_out entry;
    struct request request = {FUSE_INIT, 0, &init, sizeof init, .reply_size = sizeof(struct fuse_init_out)};

    call(&request, "FUSE_INIT");
    entry = look_up("big");
    big = entry.nodeid, big_size = entry.attr.size;
    small = look_up("small").nodeid;
    many = look_up("many").nodeid;
    if (big_size < MIB)
        die("the share's file `big` is smaller than 1 MiB");
    request = open_request(&operations[0], FUSE_OPEN, big, O_RDWR);
    call(&request, "OPEN");
    keep_handle(0, &operations[0]);
    big_handle = operations[0].handle;
}

static int by_value(const void *a, const void *b)
{
    return (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b);
}

static void submit_step(const struct workload *workload, unsigned slot)
{
    struct request request;

    workload->build(slot, &operations[slot], &request);
    driver_submit(slot, &request);
}

static void begin(const struct workload *workload, unsigned slot, uint64_t now)
{
    operations[slot] = (struct operation){.begun = now};
    submit_step(workload, slot);
}

/* Keeps `depth` operations in flight for `seconds`, then prints one JSON line: times in microseconds. */
void workload_run(const char *name, unsigned depth, double seconds)
{
    static uint32_t latencies[MAX_SAMPLES];
    const struct workload *workload = workloads, *last = workloads + sizeof workloads / sizeof *workloads;
    uint64_t operations_done = 0, samples = 0, cpu, start, now, end, kicks = driver_kicks, waits = driver_waits;
    unsigned in_flight = depth;
    double each;

    while (workload < last && strcmp(workload->name, name))
        workload++;
    if (workload == last)
        die("there is no test '%s'", name);
    cpu = peer_cpu_ns();
    now = start = now_ns();
    end = start + (uint64_t)(seconds * 1e9);
    for (unsigned slot = 0; slot < depth; slot++)
        begin(workload, slot, start);
    while (in_flight) {
        uint32_t written;
        unsigned slot = driver_reap(&written);

        if (!slot_error(slot) && written != slot_length(slot))
            die("%s: %u bytes reported, %u in the reply's header", name, written, slot_length(slot));
        if (!workload->finish(slot, &operations[slot])) {
            submit_step(workload, slot);
            continue;
        }
        now = now_ns();
        operations_done++;
        if (samples < MAX_SAMPLES)
            latencies[samples++] = now - operations[slot].begun;
        if (now < end)
            begin(workload, slot, now);
        else
            in_flight--;
    }
    cpu = peer_cpu_ns() - cpu;
    qsort(latencies, samples, sizeof *latencies, by_value);
    each = 1e3 * operations_done;
    printf("{\"test\": \"%s\", \"depth\": %u, \"operations\": %" PRIu64 ", \"wall_us\": %.3f, \"p50_us\": %.2f, "
           "\"p99_us\": %.2f, \"cpu_us\": %.3f, \"kicks\": %.3f, \"waits\": %.3f}\n",
           name, depth, operations_done, (now - start) / each, latencies[samples / 2] / 1e3,
           latencies[samples * 99 / 100] / 1e3, cpu / each, 1e3 * (driver_kicks - kicks) / each,
           1e3 * (driver_waits - waits) / each);
    fflush(stdout);
}
