/* A synthetic vhost-user-fs front end: it plays QEMU (vhost_user.c) and the guest's virtio-fs driver (driver.c),
 * and sends FUSE requests to any back end as fast as it answers (workloads.c). No VM, no guest kernel: what is
 * measured is the back end.
 *
 * Formats: vhost-user (QEMU, docs/interop/vhost-user.rst), split virtqueues (virtio 1.2, 2.7), <linux/fuse.h>. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    QUEUE_SIZE = 1024,      /* descriptors */
    HIPRIO_QUEUE = 0,       /* FORGET and INTERRUPT; set up, not used */
    REQUEST_QUEUE = 1,
    NUM_QUEUES = 2,
    MAX_DEPTH = 64,         /* requests in flight */
    PAGE = 4096,
    MIB = 1 << 20,
};

#define VIRTIO_RING_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_RING_F_EVENT_IDX (1ull << 29)
#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30)
#define VIRTIO_F_VERSION_1 (1ull << 32)

/* One virtqueue as the back end is told of it. */
struct queue_setup {
    const void *descriptors, *available, *used;
    int kick_fd, call_fd;
};

/* vhost_user.c: each ends the program with a message when the back end does not play along. */
void vhost_user_connect(const char *socket_path);
pid_t vhost_user_peer(void);                            /* the process that listens on the socket */
uint64_t vhost_user_negotiate(uint64_t wanted_features); /* the features that both sides have */
void vhost_user_share_memory(int memory_fd, void *address, uint64_t size);
void vhost_user_start_queue(unsigned index, const struct queue_setup *queue);
void vhost_user_stop_queue(unsigned index);

/* One FUSE request. The reply's sizes are what the driver offers room for. */
struct request {
    uint32_t opcode;
    uint64_t node;
    const void *arguments;
    uint32_t arguments_size;
    uint32_t data_size;         /* sent after the arguments, from slot_data() */
    uint32_t reply_size;        /* the reply's fixed part, after its fuse_out_header */
    uint32_t reply_data_size;   /* the reply's data, to slot_data() */
};

/* driver.c. A slot is the buffers of one request in flight. */
void driver_start(bool event_idx, bool spin);           /* spin: poll for replies, want no notifications */
void driver_stop(void);
void driver_submit(unsigned slot, const struct request *request);
unsigned driver_reap(uint32_t *written);                /* waits for a reply: its slot, the bytes written */
int slot_error(unsigned slot);                          /* the reply's: 0 or a negative errno */
uint32_t slot_length(unsigned slot);                    /* the reply's, with its header */
void *slot_reply(unsigned slot);
void *slot_data(unsigned slot);
extern uint64_t driver_kicks, driver_waits;             /* notifications sent; sleeps for one */

/* workloads.c */
void workloads_prepare(void);                           /* FUSE_INIT, and the files that they work on */
void workload_run(const char *name, unsigned depth, double seconds);

/* main.c */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
uint64_t peer_cpu_ns(void);                             /* CPU time of the back end and all its descendants */
