/*
 * Simulates a distance to Redis: a relay on loopback that forwards each byte after half the round trip, both ways.
 *
 * Bytes that arrive together are forwarded together, and no bytes wait for earlier ones, so this adds latency and does
 * not limit the bandwidth. One thread; it sleeps until the next bytes are due, to the microsecond.
 *
 * usage: far MICROSECONDS PORT TARGET_PORT
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SOCKETS = 512, MAX_CHUNK = 1 << 16 };

struct chunk {
    struct chunk *next;
    long due;
    size_t length;
    char bytes[];
};

/* A socket and the bytes to be written to it. Sockets are in pairs: the peer of an even index is the next odd one. */
struct end {
    struct chunk *first, **last;
};

static struct pollfd sockets[MAX_SOCKETS + 1];
static struct end ends[MAX_SOCKETS];
static nfds_t open_ends;

static void fail(const char *what) {
    fprintf(stderr, "far: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static struct sockaddr_in loopback(const char *port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void add(int socket) {
    int on = 1;
    struct end *end = ends + open_ends;

    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockets[open_ends++] = (struct pollfd){.fd = socket, .events = POLLIN};
    end->first = NULL;
    end->last = &end->first;
}

static void accept_pair(int listener, const char *port) {
    struct sockaddr_in address = loopback(port);
    int client = accept(listener, NULL, NULL), server = socket(AF_INET, SOCK_STREAM, 0);

    if (open_ends + 2 > MAX_SOCKETS || client < 0) fail("accept");
    if (connect(server, (struct sockaddr *)&address, sizeof address)) fail("connect");
    add(client);
    add(server);
}

/* Closes both ends of a pair. The last pair, which was already served, moves to its index. */
static void close_pair(nfds_t index) {
    for (nfds_t end = index & ~(nfds_t)1; end <= (index | 1); end++) {
        while (ends[end].first) {
            struct chunk *chunk = ends[end].first;
            ends[end].first = chunk->next;
            free(chunk);
        }
        close(sockets[end].fd);
        open_ends--;
        sockets[end] = sockets[open_ends ^ 1];
        sockets[end].revents = 0;
        ends[end] = ends[open_ends ^ 1];
        if (!ends[end].first) ends[end].last = &ends[end].first;
    }
}

static int receive(nfds_t index, long half) {
    struct end *peer = ends + (index ^ 1);
    static char bytes[MAX_CHUNK];
    ssize_t got = read(sockets[index].fd, bytes, sizeof bytes);
    struct chunk *chunk;

    if (got <= 0) return -1;
    if (!(chunk = malloc(sizeof *chunk + (size_t)got))) fail("memory");
    *chunk = (struct chunk){.due = now() + half, .length = (size_t)got};
    memcpy(chunk->bytes, bytes, (size_t)got);
    *peer->last = chunk;
    peer->last = &chunk->next;
    return 0;
}

static int forward(nfds_t index, long time) {
    struct end *end = ends + index;

    while (end->first && end->first->due <= time) {
        struct chunk *chunk = end->first;
        if (write(sockets[index].fd, chunk->bytes, chunk->length) != (ssize_t)chunk->length) return -1;
        if (!(end->first = chunk->next)) end->last = &end->first;
        free(chunk);
    }
    return 0;
}

static long next_due(void) {
    long due = -1;
    for (nfds_t index = 0; index < open_ends; index++)
        if (ends[index].first && (due < 0 || ends[index].first->due < due)) due = ends[index].first->due;
    return due;
}

int main(int count, char **arguments) {
    struct sockaddr_in own;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    long half;

    if (count != 4) {
        fprintf(stderr, "usage: far MICROSECONDS PORT TARGET_PORT\n");
        return 2;
    }
    half = atol(arguments[1]) * 1000 / 2;
    own = loopback(arguments[2]);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, 64)) fail("listen");
    for (;;) {
        long due = next_due(), left = due < 0 ? 0 : due - now();
        struct timespec pause = {.tv_nsec = left > 0 ? left : 0};
        nfds_t watched = open_ends;

        sockets[watched] = (struct pollfd){.fd = listener, .events = POLLIN};
        if (ppoll(sockets, watched + 1, due < 0 ? NULL : &pause, NULL) < 0) fail("poll");
        if (sockets[watched].revents) accept_pair(listener, arguments[3]);
        for (nfds_t index = watched; index-- > 0;)
            if (index < open_ends && ((sockets[index].revents && receive(index, half)) || forward(index, now())))
                close_pair(index);
    }
}
