/* A worker that is no Python: virtio-rng, after the contract in ../README.md ("A worker in another language").

   cc -O2 -Wall -static -o entropy entropy.c
   subos-devices serve rng --socket-path /tmp/rng.sock --process own:$PWD/entropy

   The supervisor speaks to QEMU; this moves the data of one split virtqueue (VIRTIO 1.3 §2.7), with indirect
   descriptors and EVENT_IDX. The guest is hostile: whatever it wrote is checked, and read once. */

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONTROL = 3, COUNTERS = 4, COUNTED = 4096, MAX_PACKET = 16384, MAX_FDS = 32, MAX_SIZE = 32768, LIMIT = 65536 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, NO_INTERRUPT = 1 };

struct region { uint64_t guest, size, user, offset; char *file; };
struct desc { uint64_t address; uint32_t length; uint16_t flags, next; };
struct used { uint32_t id, length; };

static struct region regions[MAX_FDS];
static size_t count;
static volatile uint64_t *counters; /* requests, wake-ups, busy */
static bool respawned;

static struct {
    bool known, active, event_idx;
    int kick, call;
    uint64_t size, desc_at, avail_at, used_at;
    uint16_t next; /* the available index to take */
    struct desc *desc;
    volatile uint16_t *avail, *used; /* flags, idx, ring…, event */
} ring;

static void say(const char *message) {
    send(CONTROL, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* `length` bytes at a guest-physical address, or NULL. */
static void *guest(uint64_t address, uint64_t length) {
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = address - regions[i].guest;
        if (offset < regions[i].size && length <= regions[i].size - offset)
            return regions[i].file + regions[i].offset + offset;
    }
    return NULL;
}

static void interrupt(void) {
    uint64_t one = 1;
    if (ring.call >= 0 && write(ring.call, &one, sizeof one) < 0)
        return; /* its counter is full: the driver has been told often enough */
}

/* Fills a chain's buffers: how many bytes, or -1 where the chain is broken. */
static int64_t fill(uint16_t head) {
    struct desc *table = ring.desc, one;
    uint64_t entries = ring.size, written = 0;
    uint16_t index = head;
    for (uint64_t steps = 0; steps <= ring.size + MAX_SIZE; steps++) {
        if (index >= entries)
            return -1;
        memcpy(&one, &table[index], sizeof one);
        if (one.flags & INDIRECT) {
            if (table != ring.desc || one.flags & NEXT || !one.length || one.length % sizeof one)
                return -1;
            table = guest(one.address, one.length);
            entries = one.length / sizeof one;
            index = 0;
            if (table == NULL || entries > MAX_SIZE)
                return -1;
            continue;
        }
        char *buffer = guest(one.address, one.length);
        if (buffer == NULL || !(one.flags & WRITE))
            return -1;
        uint64_t wanted = one.length < LIMIT - written ? one.length : LIMIT - written;
        for (uint64_t done = 0; done < wanted;) {
            ssize_t got = getrandom(buffer + done, wanted - done, 0);
            if (got < 0)
                return -1;
            done += got;
        }
        written += wanted;
        if (!(one.flags & NEXT))
            return written;
        index = one.next;
    }
    return -1; /* a loop */
}

static void fault(void) {
    ring.active = false;
    say("{\"op\": \"fault\", \"index\": 0, \"message\": \"a chain or an index of the driver's is broken\"}");
}

static void serve(void) {
    uint64_t mask = ring.size - 1;
    volatile uint16_t *used_event = &ring.avail[2 + ring.size], *avail_event = &ring.used[2 + 4 * ring.size];
    volatile struct used *elements = (volatile struct used *)(ring.used + 2);
    uint16_t index = ring.used[1], told = index;
    for (;;) {
        uint16_t available = ring.avail[1];
        if (available == ring.next) {
            *avail_event = ring.next; /* kick me for the next one */
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            if (ring.avail[1] == ring.next)
                break;
            continue;
        }
        if ((uint16_t)(available - ring.next) > ring.size) {
            fault();
            break;
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        uint16_t head = ring.avail[2 + (ring.next & mask)];
        int64_t written = fill(head);
        if (written < 0) {
            fault();
            break;
        }
        ring.next++;
        elements[index & mask].id = head;
        elements[index & mask].length = written;
        __atomic_thread_fence(__ATOMIC_RELEASE);
        ring.used[1] = ++index; /* given back: a worker that dies before this line leaves the chain to the next one */
        counters[0]++;
    }
    if (index == told)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ring.event_idx ? (uint16_t)(index - *used_event - 1) < (uint16_t)(index - told) : !(ring.avail[0] & NO_INTERRUPT))
        interrupt();
}

static void activate(void) {
    ring.desc = guest(ring.desc_at, ring.size * sizeof *ring.desc);
    ring.avail = guest(ring.avail_at, 6 + 2 * ring.size);
    ring.used = guest(ring.used_at, 6 + 8 * ring.size);
    bool power = ring.size && ring.size <= MAX_SIZE && !(ring.size & (ring.size - 1));
    if (!power || !ring.desc || !ring.avail || !ring.used || ring.desc_at % 16 || ring.avail_at % 2 || ring.used_at % 4) {
        fault();
        return;
    }
    ring.active = true;
    ring.next = ring.used[1]; /* whatever was taken and not given back is taken again */
    serve();
    if (respawned)
        interrupt(); /* nobody knows what the driver was told last */
}

/* --- what the supervisor says: JSON objects of one level, but for "regions" */

static const char *value(const char *packet, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(packet, quoted);
    return found ? found + strlen(quoted) + strspn(found + strlen(quoted), " ") : "";
}

static uint64_t number(const char *packet, const char *key) {
    const char *text = value(packet, key);
    return *text == 't' ? 1 : strtoull(text, NULL, 10);
}

static void take_memory(const char *packet, int *fds, int given) {
    for (size_t i = 0; i < count; i++)
        munmap(regions[i].file, regions[i].offset + regions[i].size);
    count = 0;
    char *text = (char *)value(packet, "regions");
    for (int i = 0; i < given; i++) {
        uint64_t numbers[4];
        for (int n = 0; n < 4; n++) {
            text += strcspn(text, "0123456789");
            numbers[n] = strtoull(text, &text, 10);
        }
        struct region now = {numbers[0], numbers[1], numbers[2], numbers[3], NULL};
        struct stat file;
        if (fstat(fds[i], &file) == 0 && now.offset + now.size <= (uint64_t)file.st_size) {
            now.file = mmap(NULL, now.offset + now.size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
            if (now.file != MAP_FAILED)
                regions[count++] = now;
        }
        close(fds[i]);
    }
}

static void drop_ring(void) {
    if (ring.known) {
        close(ring.kick);
        if (ring.call >= 0)
            close(ring.call);
    }
    memset(&ring, 0, sizeof ring);
}

static void obey(const char *packet, int *fds, int given) {
    const char *op = value(packet, "op");
    if (!strncmp(op, "\"memory\"", 8)) {
        bool was_active = ring.active;
        ring.active = false;
        take_memory(packet, fds, given);
        if (was_active)
            activate();
    } else if (!strncmp(op, "\"start\"", 7) && given) {
        drop_ring();
        ring.known = true;
        ring.kick = fds[0];
        ring.call = given > 1 ? fds[1] : -1;
        ring.size = number(packet, "size");
        ring.desc_at = number(packet, "desc");
        ring.avail_at = number(packet, "avail");
        ring.used_at = number(packet, "used");
        ring.event_idx = number(packet, "event_idx");
        if (number(packet, "enabled"))
            activate();
    } else if (!strncmp(op, "\"enable\"", 8) && ring.known) {
        if (!number(packet, "on"))
            ring.active = false;
        else if (!ring.active)
            activate();
    } else if (!strncmp(op, "\"call\"", 6) && ring.known) {
        if (ring.call >= 0)
            close(ring.call);
        ring.call = given ? fds[0] : -1;
        if (ring.active)
            interrupt(); /* what was signalled to the old one meanwhile must not be lost */
    } else if (!strncmp(op, "\"ping\"", 6)) {
        say("{\"op\": \"pong\"}");
    } else if (!strncmp(op, "\"stop\"", 6)) {
        char answer[64];
        drop_ring();
        snprintf(answer, sizeof answer, "{\"op\": \"stopped\", \"id\": %llu}", (unsigned long long)number(packet, "id"));
        say(answer);
    } else {
        for (int i = 0; i < given; i++)
            close(fds[i]);
    }
}

/* One packet; false once the supervisor is gone. */
static bool hear(void) {
    static char packet[MAX_PACKET + 1];
    union { char room[CMSG_SPACE(MAX_FDS * sizeof(int))]; struct cmsghdr head; } control;
    struct iovec data = {packet, MAX_PACKET};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        return false;
    packet[length] = 0;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int given = head ? (head->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    obey(packet, head ? (int *)CMSG_DATA(head) : NULL, given);
    return true;
}

int main(void) {
    const char *again = getenv("SUBOS_RESPAWNED"), *contract = getenv("SUBOS_CONTRACT");
    if (!contract || strcmp(contract, "1"))
        return 2; /* started by hand, or by a SubOS that speaks otherwise */
    respawned = again && *again == '1';
    counters = mmap(NULL, COUNTED, PROT_READ | PROT_WRITE, MAP_SHARED, COUNTERS, 0);
    if (counters == MAP_FAILED)
        return 1;
    say("{\"op\": \"ready\"}");
    for (;;) {
        counters[2] = 0;
        struct pollfd ready[2] = {{CONTROL, POLLIN, 0}, {ring.known ? ring.kick : -1, POLLIN, 0}};
        poll(ready, 2, -1);
        counters[1]++;
        counters[2] = 1;
        if (ready[0].revents) { /* first, so that a kick that came later finds it done */
            if (!hear())
                return 0;
        } else if (ready[1].revents) {
            uint64_t kicks;
            if (read(ring.kick, &kicks, sizeof kicks) == sizeof kicks && ring.active)
                serve();
        }
    }
}
