/*
 * Makes Redis look far away: a relay on loopback that passes every byte on after half the round trip, either way.
 *
 * What arrives together leaves together, and nothing is held back longer for what came before it, so that this is
 * distance and not a narrow line. One thread; it sleeps until the next bytes are due, to the microsecond.
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

/* A socket and what is to be written to it. Its peer is its neighbour: sockets come in pairs, even and odd. */
struct end {
    struct chunk *first, **last;
};

static struct pollfd sockets[MAX_SOCKETS + 1];
static struct end ends[MAX_SOCKETS];
static nfds_t open_ends;

static void give_up(const char *what) {
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
    struct sockaddr_in there = loopback(port);
    int near = accept(listener, NULL, NULL), away = socket(AF_INET, SOCK_STREAM, 0);

    if (open_ends + 2 > MAX_SOCKETS || near < 0) give_up("accept");
    if (connect(away, (struct sockaddr *)&there, sizeof there)) give_up("connect");
    add(near);
    add(away);
}

/* Both ends of a pair go at once. The last pair takes its place, and has had its turn. */
static void close_pair(nfds_t place) {
    for (nfds_t end = place & ~(nfds_t)1; end <= (place | 1); end++) {
        while (ends[end].first) {
            struct chunk *gone = ends[end].first;
            ends[end].first = gone->next;
            free(gone);
        }
        close(sockets[end].fd);
        open_ends--;
        sockets[end] = sockets[open_ends ^ 1];
        sockets[end].revents = 0;
        ends[end] = ends[open_ends ^ 1];
        if (!ends[end].first) ends[end].last = &ends[end].first;
    }
}

static int take_in(nfds_t place, long half) {
    struct end *peer = ends + (place ^ 1);
    static char bytes[MAX_CHUNK];
    ssize_t got = read(sockets[place].fd, bytes, sizeof bytes);
    struct chunk *chunk;

    if (got <= 0) return -1;
    if (!(chunk = malloc(sizeof *chunk + (size_t)got))) give_up("memory");
    *chunk = (struct chunk){.due = now() + half, .length = (size_t)got};
    memcpy(chunk->bytes, bytes, (size_t)got);
    *peer->last = chunk;
    peer->last = &chunk->next;
    return 0;
}

static int pass_on(nfds_t place, long time) {
    struct end *end = ends + place;

    while (end->first && end->first->due <= time) {
        struct chunk *chunk = end->first;
        if (write(sockets[place].fd, chunk->bytes, chunk->length) != (ssize_t)chunk->length) return -1;
        if (!(end->first = chunk->next)) end->last = &end->first;
        free(chunk);
    }
    return 0;
}

static long next_due(void) {
    long due = -1;
    for (nfds_t place = 0; place < open_ends; place++)
        if (ends[place].first && (due < 0 || ends[place].first->due < due)) due = ends[place].first->due;
    return due;
}

int main(int count, char **words) {
    struct sockaddr_in here;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    long half;

    if (count != 4) {
        fprintf(stderr, "usage: far MICROSECONDS PORT TARGET_PORT\n");
        return 2;
    }
    half = atol(words[1]) * 1000 / 2;
    here = loopback(words[2]);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 64)) give_up("listen");
    for (;;) {
        long due = next_due(), left = due < 0 ? 0 : due - now();
        struct timespec pause = {.tv_nsec = left > 0 ? left : 0};
        nfds_t watched = open_ends;

        sockets[watched] = (struct pollfd){.fd = listener, .events = POLLIN};
        if (ppoll(sockets, watched + 1, due < 0 ? NULL : &pause, NULL) < 0) give_up("poll");
        if (sockets[watched].revents) accept_pair(listener, words[3]);
        for (nfds_t place = watched; place-- > 0;)
            if (place < open_ends && ((sockets[place].revents && take_in(place, half)) || pass_on(place, now())))
                close_pair(place);
    }
}
