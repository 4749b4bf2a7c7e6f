/* The front end's half of vhost-user, as far as a file system device needs it. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "front_end.h"

enum {
    GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10, GET_VRING_BASE = 11, SET_VRING_KICK = 12, SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18,
};
enum { VERSION = 1, NEED_REPLY = 1 << 3 };
enum { PROTOCOL_F_MQ = 1 << 0, PROTOCOL_F_REPLY_ACK = 1 << 3 };

struct header { uint32_t request, flags, size; };
struct vring_state { uint32_t index, number; };
struct vring_addresses { uint32_t index, flags; uint64_t descriptors, used, available, log; };
struct memory_table {
    uint32_t regions, padding;
    uint64_t guest_address, size, user_address, mmap_offset;
};

static int channel;
static bool back_end_acknowledges;

static void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t size, int fd)
{
    struct header header = {request, VERSION | flags, size};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)payload, size}};
    union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof fd)]; } control = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

    if (fd >= 0) {
        control.header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    if (sendmsg(channel, &message, 0) != (ssize_t)(sizeof header + size))
        die("request %u could not be sent: %s", request, strerror(errno));
}

static void receive_reply(uint32_t request, void *payload, uint32_t size)
{
    struct header header;

    if (recv(channel, &header, sizeof header, MSG_WAITALL) != sizeof header)
        die("the back end did not answer request %u", request);
    if (header.request != request || header.size != size)
        die("the back end answered request %u with %u, %u bytes", request, header.request, header.size);
    if (recv(channel, payload, size, MSG_WAITALL) != (ssize_t)size)
        die("the back end's answer to request %u is cut short", request);
}

static uint64_t get(uint32_t request)
{
    uint64_t value;

    send_message(request, 0, NULL, 0, -1);
    receive_reply(request, &value, sizeof value);
    return value;
}

/* Sends, and waits for the back end's word that it was done where it can give it. */
static void set(uint32_t request, const void *payload, uint32_t size, int fd)
{
    uint64_t failed = 0;

    send_message(request, back_end_acknowledges ? NEED_REPLY : 0, payload, size, fd);
    if (back_end_acknowledges)
        receive_reply(request, &failed, sizeof failed);
    if (failed)
        die("the back end refused request %u", request);
}

void vhost_user_connect(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 5};

    if (strlen(socket_path) >= sizeof address.sun_path)
        die("the socket's path is too long: %s", socket_path);
    strcpy(address.sun_path, socket_path);
    channel = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(channel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    /* Some back ends bind first and listen a moment later. */
    for (int tries = 100; connect(channel, (struct sockaddr *)&address, sizeof address); tries--) {
        if (errno != ECONNREFUSED || !tries)
            die("%s: %s", socket_path, strerror(errno));
        usleep(10000);
    }
}

pid_t vhost_user_peer(void)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (getsockopt(channel, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        die("SO_PEERCRED: %s", strerror(errno));
    return peer.pid;
}

uint64_t vhost_user_negotiate(uint64_t wanted_features)
{
    uint64_t features = get(GET_FEATURES) & (wanted_features | VHOST_USER_F_PROTOCOL_FEATURES);
    uint64_t protocol;

    if (!(features & VHOST_USER_F_PROTOCOL_FEATURES))
        die("the back end has no protocol features");
    protocol = get(GET_PROTOCOL_FEATURES) & (PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK);
    set(SET_PROTOCOL_FEATURES, &protocol, sizeof protocol, -1);
    back_end_acknowledges = protocol & PROTOCOL_F_REPLY_ACK;
    set(SET_OWNER, NULL, 0, -1);
    set(SET_FEATURES, &features, sizeof features, -1);
    return features;
}

/* Guest address 0 is the memory's start. */
void vhost_user_share_memory(int memory_fd, void *address, uint64_t size)
{
    struct memory_table table = {.regions = 1, .size = size, .user_address = (uintptr_t)address};

    set(SET_MEM_TABLE, &table, sizeof table, memory_fd);
}

void vhost_user_start_queue(unsigned index, const struct queue_setup *queue)
{
    struct vring_state size = {index, QUEUE_SIZE}, base = {index, 0}, enable = {index, 1};
    struct vring_addresses addresses = {
        .index = index,
        .descriptors = (uintptr_t)queue->descriptors,
        .used = (uintptr_t)queue->used,
        .available = (uintptr_t)queue->available,
    };
    uint64_t queue_index = index;

    set(SET_VRING_NUM, &size, sizeof size, -1);
    set(SET_VRING_BASE, &base, sizeof base, -1);
    set(SET_VRING_ADDR, &addresses, sizeof addresses, -1);
    set(SET_VRING_CALL, &queue_index, sizeof queue_index, queue->call_fd);
    set(SET_VRING_KICK, &queue_index, sizeof queue_index, queue->kick_fd);
    set(SET_VRING_ENABLE, &enable, sizeof enable, -1);
}

void vhost_user_stop_queue(unsigned index)
{
    struct vring_state state = {index, 0};

    send_message(GET_VRING_BASE, 0, &state, sizeof state, -1);
    receive_reply(GET_VRING_BASE, &state, sizeof state);
}
