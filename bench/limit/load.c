// A load like that of wrk, on TCP or a Unix socket: so that both are measured by one program. Each connection sends a
// request after each response. Prints `report RESPONSES MICROSECONDS P99 ERRORS BROKEN` as bench/rig/load.py reads it.
//
// usage: load ADDRESS CONNECTIONS SECONDS REQUEST, where ADDRESS is a port of the loopback or the path of a socket
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RESPONSE = 16384, BUCKETS = 1 << 20 };

struct client {
    int fd;
    double sent;
    size_t length;
    char received[MAX_RESPONSE + 1];
};

static unsigned latencies[BUCKETS];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_connection(const char *address) {
    int one = 1, is_path = address[0] == '/';
    int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un file = {.sun_family = AF_UNIX};
    struct sockaddr_in port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    snprintf(file.sun_path, sizeof file.sun_path, "%s", address);
    port.sin_port = htons(atoi(address));
    struct sockaddr *peer = is_path ? (struct sockaddr *)&file : (struct sockaddr *)&port;
    if (connect(fd, peer, is_path ? sizeof file : sizeof port)) fail(address);
    if (!is_path) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

// Returns the length of a whole response at the start of `text`, or 0.
static size_t response_length(const char *text, size_t received) {
    const char *end = strstr(text, "\r\n\r\n"), *field = strcasestr(text, "\r\ncontent-length:");
    if (!end) return 0;
    size_t length = end + 4 - text + (field && field < end ? strtoul(field + 17, NULL, 10) : 0);
    return received >= length ? length : 0;
}

int main(int count, char **arguments) {
    if (count != 5) return fprintf(stderr, "usage: load ADDRESS CONNECTIONS SECONDS REQUEST\n"), 2;
    int connections = atoi(arguments[2]), events = epoll_create1(0);
    const char *request = arguments[4];
    struct client *clients = calloc(connections, sizeof *clients);
    struct epoll_event ready[512];
    long answered = 0, refused = 0, broken = 0;
    double begin = now(), end = begin + atof(arguments[3]) * 1e6;
    for (struct client *client = clients; client < clients + connections; client++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        client->fd = open_connection(arguments[1]);
        if (epoll_ctl(events, EPOLL_CTL_ADD, client->fd, &event)) fail("epoll_ctl");
        client->sent = now();
        if (write(client->fd, request, strlen(request)) < 0) fail("write");
    }
    while (now() < end && broken < connections) {
        int number = epoll_wait(events, ready, 512, 100);
        for (int index = 0; index < number; index++) {
            struct client *client = ready[index].data.ptr;
            ssize_t length = recv(client->fd, client->received + client->length, MAX_RESPONSE - client->length, 0);
            if (length <= 0) {
                broken++;
                close(client->fd);
                continue;
            }
            client->length += length;
            client->received[client->length] = 0;
            if (!response_length(client->received, client->length)) continue;
            double time = now(), latency = time - client->sent;
            latencies[latency < BUCKETS ? (int)latency : BUCKETS - 1]++;
            answered++;
            refused += strncmp(client->received, "HTTP/1.1 200", 12) != 0;
            client->length = 0;
            client->sent = time;
            if (send(client->fd, request, strlen(request), MSG_NOSIGNAL) < 0) broken++;
        }
    }
    double lasted = now() - begin;
    long below = 0, p99 = 0;
    while (p99 < BUCKETS - 1 && below + latencies[p99] <= answered * 0.99) below += latencies[p99++];
    printf("report %ld %.0f %ld %ld %ld\n", answered, lasted, p99, refused, broken);
    return 0;
}
