/* The guest's driver: split virtqueues with an indirect table a request, as Linux lays out its FUSE requests. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "front_end.h"

enum { DESC_F_NEXT = 1, DESC_F_WRITE = 2, DESC_F_INDIRECT = 4 };
enum { USED_F_NO_NOTIFY = 1, AVAILABLE_F_NO_INTERRUPT = 1 };

struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };
struct available { uint16_t flags; _Atomic uint16_t index; uint16_t ring[QUEUE_SIZE]; _Atomic uint16_t used_event; };
struct used_entry { uint32_t id, length; };
struct used {
    _Atomic uint16_t flags, index;
    struct used_entry ring[QUEUE_SIZE];
    _Atomic uint16_t available_event;
};

struct queue {
    struct descriptor descriptors[QUEUE_SIZE];
    _Alignas(PAGE) struct available available;
    _Alignas(PAGE) struct used used;
};

/* The buffers of one request, apart as the guest's are; its descriptor table beside them. */
struct slot {
    struct descriptor table[6];
    _Alignas(64) struct fuse_in_header header;
    _Alignas(64) uint8_t arguments[512];
    _Alignas(64) struct fuse_out_header reply_header;
    _Alignas(64) uint8_t reply[512];
    _Alignas(PAGE) uint8_t data[MIB];
};

struct guest_memory {
    _Alignas(PAGE) struct queue queues[NUM_QUEUES];
    _Alignas(PAGE) struct slot slots[MAX_DEPTH];
};

static struct guest_memory *guest;
static int kick_fd, call_fd;
static bool has_event_idx, spins;
static uint16_t made_available, seen_used;
uint64_t driver_kicks, driver_waits;

void driver_start(bool event_idx, bool spin)
{
    uint64_t wanted = VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC;
    uint64_t features = vhost_user_negotiate(wanted | (event_idx ? VIRTIO_RING_F_EVENT_IDX : 0));
    int memory_fd = memfd_create("guest", MFD_CLOEXEC);

    if ((features & wanted) != wanted)
        die("the back end lacks virtio 1 or indirect descriptors: its features are %#llx", (long long)features);
    has_event_idx = features & VIRTIO_RING_F_EVENT_IDX;
    spins = spin;
    if (memory_fd < 0 || ftruncate(memory_fd, sizeof *guest))
        die("guest memory: %s", strerror(errno));
    guest = mmap(NULL, sizeof *guest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_fd, 0);
    if (guest == MAP_FAILED)
        die("guest memory: %s", strerror(errno));
    vhost_user_share_memory(memory_fd, guest, sizeof *guest);
    for (unsigned i = 0; i < NUM_QUEUES; i++) {
        struct queue *queue = &guest->queues[i];

        queue->available.flags = spins && !has_event_idx ? AVAILABLE_F_NO_INTERRUPT : 0;
        kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); /* the last, the request queue's, are kept */
        call_fd = eventfd(0, EFD_CLOEXEC);
        vhost_user_start_queue(i, &(struct queue_setup){queue->descriptors, &queue->available, &queue->used,
                                                        kick_fd, call_fd});
    }
}

void driver_stop(void)
{
    for (unsigned i = 0; i < NUM_QUEUES; i++)
        vhost_user_stop_queue(i);
}

static uint64_t guest_address(const void *pointer) { return (uintptr_t)pointer - (uintptr_t)guest; }

static void add(struct slot *slot, unsigned *count, const void *buffer, uint32_t size, uint16_t flags)
{
    if (size) {
        slot->table[*count] = (struct descriptor){guest_address(buffer), size, DESC_F_NEXT | flags, *count + 1};
        ++*count;
    }
}

static bool wants_kick(struct used *used, uint16_t before)
{
    atomic_thread_fence(memory_order_seq_cst); /* the index is out before the other side's wish is read */
    if (!has_event_idx)
        return !(used->flags & USED_F_NO_NOTIFY);
    return (uint16_t)(made_available - used->available_event - 1) < (uint16_t)(made_available - before);
}

void driver_submit(unsigned number, const struct request *request)
{
    static uint64_t unique;
    struct queue *queue = &guest->queues[REQUEST_QUEUE];
    struct slot *slot = &guest->slots[number];
    unsigned count = 0;
    uint16_t before = made_available;

    slot->header = (struct fuse_in_header){
        .len = sizeof slot->header + request->arguments_size + request->data_size,
        .opcode = request->opcode,
        .unique = unique += 2,
        .nodeid = request->node,
        .pid = 1,
    };
    memcpy(slot->arguments, request->arguments, request->arguments_size);
    add(slot, &count, &slot->header, sizeof slot->header, 0);
    add(slot, &count, slot->arguments, request->arguments_size, 0);
    add(slot, &count, slot->data, request->data_size, 0);
    add(slot, &count, &slot->reply_header, sizeof slot->reply_header, DESC_F_WRITE);
    add(slot, &count, slot->reply, request->reply_size, DESC_F_WRITE);
    add(slot, &count, slot->data, request->reply_data_size, DESC_F_WRITE);
    slot->table[count - 1].flags &= ~DESC_F_NEXT;

    queue->descriptors[number] = (struct descriptor){
        guest_address(slot->table), count * sizeof(struct descriptor), DESC_F_INDIRECT, 0};
    queue->available.ring[made_available % QUEUE_SIZE] = number;
    atomic_store_explicit(&queue->available.index, ++made_available, memory_order_release);
    if (wants_kick(&queue->used, before)) {
        if (write(kick_fd, &(uint64_t){1}, 8) != 8)
            die("kick: %s", strerror(errno));
        driver_kicks++;
    }
}

static bool has_reply(void)
{
    return atomic_load_explicit(&guest->queues[REQUEST_QUEUE].used.index, memory_order_acquire) != seen_used;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void spin_for_reply(void)
{
    uint64_t start = 0;

    for (uint32_t turns = 1; !has_reply(); turns++) {
        relax();
        if (turns % MIB == 0) { /* the clock is looked at now and then only */
            if (!start)
                start = now_ns();
            else if (now_ns() - start > 5000000000ull)
                die("no reply in 5 s: a kick was lost, or the back end hangs");
        }
    }
}

static void sleep_for_reply(_Atomic uint16_t *used_event)
{
    uint64_t calls;

    *used_event = seen_used;
    atomic_thread_fence(memory_order_seq_cst); /* the wish is out before the last look */
    while (!has_reply()) {
        if (poll(&(struct pollfd){.fd = call_fd, .events = POLLIN}, 1, 5000) != 1)
            die("no notification in 5 s: one was lost, or the back end hangs");
        if (read(call_fd, &calls, sizeof calls) != sizeof calls)
            die("call: %s", strerror(errno));
        driver_waits++;
    }
}

unsigned driver_reap(uint32_t *written)
{
    struct queue *queue = &guest->queues[REQUEST_QUEUE];
    struct used_entry entry;

    if (spins)
        spin_for_reply();
    else
        sleep_for_reply(&queue->available.used_event);
    entry = queue->used.ring[seen_used++ % QUEUE_SIZE];
    if (entry.id >= MAX_DEPTH)
        die("the back end used descriptor %u, which it was not given", entry.id);
    if (spins) /* a place long past, which the back end will not cross: no notification */
        queue->available.used_event = seen_used - QUEUE_SIZE;
    *written = entry.length;
    return entry.id;
}

int slot_error(unsigned slot) { return guest->slots[slot].reply_header.error; }
uint32_t slot_length(unsigned slot) { return guest->slots[slot].reply_header.len; }
void *slot_reply(unsigned slot) { return guest->slots[slot].reply; }
void *slot_data(unsigned slot) { return guest->slots[slot].data; }
