/*
 * The baseline: a visit counter that does only what the kernel requires.
 *
 * One thread, one epoll loop, fixed buffers, almost no parser: a request ends with an empty line and must start with
 * GET /count. A wake-up costs one read for each client that has written and one write for each response. A counter is
 * slower than this only by its work between the system calls, or by more system calls. The response has the fields of
 * notch in their shortest form.
 *
 * It is not for production: it trusts its clients and Redis, and exits at the first unexpected event.
 *
 * usage: limit MODE PORT [REDIS_PORT [SCRIPT]]
 *
 *   combine  one INCRBY for all visits that arrived while the previous one was in flight
 *   once     the same with SCRIPT, the script of notch, which stores a receipt
 *   each     one INCR for each visit, sent at once
 *   static   without Redis: the number is a counter of the process
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MAX_EVENTS = 512, MAX_UNREAD = 4096, MAX_RESPONSE = 300, MAX_UNSENT = 32768, MAX_REDIS = 1 << 20 };

struct client {
    int socket;
    size_t unread, unsent;
    int waiting;            /* visits without a response */
    int dirty;              /* in the list of clients with pending responses */
    char in[MAX_UNREAD];
    char out[MAX_UNSENT];
};

/* Waiting clients, in the order of their visits. In `combine`, the first `sent` of them are in flight. */
struct waiter {
    struct client *client;
    int visits;
};

static enum { COMBINE, ONCE, EACH, STATIC } mode;
static int poller, listener, redis;
static struct waiter *waiters;
static size_t first, last, capacity, sent;
static long sent_visits, own_total;
static struct client **dirty;
static size_t dirty_length, dirty_capacity;
static char redis_in[MAX_REDIS], redis_out[MAX_REDIS];
static size_t redis_unread, redis_unsent;
static const char INCR[] = "*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n";
static char digest[41];
static char head[MAX_RESPONSE], tail[MAX_RESPONSE];
static size_t head_length, tail_length;

static void fail(const char *what) {
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void no_delay(int socket) {
    int on = 1;
    if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) fail("TCP_NODELAY");
}

static void watch(int socket, void *source) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event)) fail("epoll_ctl");
}

/* The constant parts of a response; the date changes once a second. */
static void update_head(void) {
    static time_t updated;
    static char host[65];
    time_t now = time(NULL);
    char date[64];

    if (now == updated) return;
    if (!updated) {
        gethostname(host, sizeof host - 1);
        tail_length = (size_t)snprintf(tail, sizeof tail,
            "\r\nCache-Control: no-store\r\nX-Served-By: %s\r\n\r\n", host);
    }
    updated = now;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    head_length = (size_t)snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ", date);
}

static char *append(char *at, const char *bytes, size_t length) {
    memcpy(at, bytes, length);
    return at + length;
}

/* Writes the digits before `end`, and returns their start. */
static char *write_digits(char *end, long number) {
    do *--end = (char)('0' + number % 10);
    while (number /= 10);
    return end;
}

static void respond(struct client *client, long number) {
    char body[24], length[4], *body_end = body + sizeof body, *length_end = length + sizeof length;
    char *at = client->out + client->unsent, *body_start, *length_start;

    if (client->unsent + MAX_RESPONSE * 2 > MAX_UNSENT) fail("a client does not read its responses");
    body_end[-1] = '\n';
    body_start = write_digits(body_end - 1, number);
    length_start = write_digits(length_end, body_end - body_start);
    at = append(at, head, head_length);
    at = append(at, length_start, (size_t)(length_end - length_start));
    at = append(at, tail, tail_length);
    at = append(at, body_start, (size_t)(body_end - body_start));
    client->unsent = (size_t)(at - client->out);
    if (client->dirty) return;
    if (dirty_length == dirty_capacity) {
        dirty_capacity = dirty_capacity * 2 + 64;
        if (!(dirty = realloc(dirty, dirty_capacity * sizeof *dirty))) fail("memory");
    }
    dirty[dirty_length++] = client;
    client->dirty = 1;
}

static void enqueue(struct client *client, int visits) {
    if (last == capacity) {
        if (first) memmove(waiters, waiters + first, (last - first) * sizeof *waiters);
        last -= first;
        first = 0;
        if (last * 2 >= capacity) {
            capacity = capacity * 2 + 64;
            if (!(waiters = realloc(waiters, capacity * sizeof *waiters))) fail("memory");
        }
    }
    waiters[last++] = (struct waiter){client, visits};
    client->waiting += visits;
}

/* Frees a disconnected client when neither the queue nor the list of pending responses contains it. */
static void release(struct client *client) {
    if (client->socket < 0 && !client->waiting && !client->dirty) free(client);
}

static void close_client(struct client *client) {
    close(client->socket);
    client->socket = -1;
    release(client);
}

/* Gives the next waiter its numbers, which start with `number`. */
static void complete(long number) {
    struct waiter *next = waiters + first++;
    struct client *client = next->client;

    for (int visit = 0; visit < next->visits; visit++)
        if (client->socket >= 0) respond(client, number + visit);
    client->waiting -= next->visits;
    release(client);
}

static void read_client(struct client *client) {
    ssize_t got = read(client->socket, client->in + client->unread, MAX_UNREAD - client->unread);
    char *start = client->in, *end;
    int visits = 0;

    if (got <= 0) {
        close_client(client);
        return;
    }
    client->unread += (size_t)got;
    while ((end = memmem(start, client->unread, "\r\n\r\n", 4))) {
        if (strncmp(start, "GET /count ", 11)) fail("an unexpected request");
        end += 4;
        client->unread -= (size_t)(end - start);
        start = end;
        visits++;
    }
    memmove(client->in, start, client->unread);
    if (mode <= ONCE && visits) enqueue(client, visits);
    for (; mode > ONCE && visits; visits--) {
        if (mode == STATIC) {
            respond(client, ++own_total);
        } else {
            enqueue(client, 1);
            if (redis_unsent + 64 > MAX_REDIS) fail("Redis does not read");
            redis_unsent = (size_t)(append(redis_out + redis_unsent, INCR, sizeof INCR - 1) - redis_out);
        }
    }
}

static void accept_client(void) {
    struct client *client = malloc(sizeof *client);

    if (!client) fail("memory");
    client->socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    client->unread = client->unsent = 0;
    client->waiting = client->dirty = 0;
    if (client->socket < 0) {
        free(client);
        return;
    }
    no_delay(client->socket);
    watch(client->socket, client);
}

static void read_redis(void) {
    ssize_t got = read(redis, redis_in + redis_unread, MAX_REDIS - redis_unread);
    char *start = redis_in, *end;

    if (got <= 0) fail("Redis closed the connection");
    redis_unread += (size_t)got;
    while ((end = memchr(start, '\n', redis_unread))) {
        long total = strtol(start + 1, NULL, 10);
        if (mode == ONCE) {
            /* A bulk string with the count before this batch. Its second line has at least one digit. */
            char *next = end + 1;
            if (*start != '$') fail("Redis returned an error");
            if (!(end = memchr(next, '\n', redis_unread - (size_t)(next - start)))) break;
            total = strtol(next, NULL, 10) + sent_visits;
        } else if (*start != ':') {
            fail("Redis returned an error");
        }
        redis_unread -= (size_t)(end + 1 - start);
        start = end + 1;
        if (mode == EACH) {
            complete(total);
            continue;
        }
        for (long number = total - sent_visits + 1; sent; sent--) {
            int visits = waiters[first].visits;
            complete(number);
            number += visits;
        }
    }
    memmove(redis_in, start, redis_unread);
}

static void send_batch(void) {
    static long number = 1000000000000000;
    char text[24], *end = text + sizeof text, *start;

    if (sent || first == last) return;
    sent = last - first;
    sent_visits = 0;
    for (size_t i = first; i < last; i++) sent_visits += waiters[i].visits;
    start = write_digits(end, sent_visits);
    if (mode == ONCE) {
        redis_unsent = (size_t)snprintf(redis_out, MAX_REDIS,
            "*8\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n2\r\n$6\r\nvisits\r\n"
            "$19\r\n{visits}:receipt:42\r\n$6\r\n302000\r\n$16\r\n%ld\r\n$%d\r\n%.*s\r\n",
            digest, ++number, (int)(end - start), (int)(end - start), start);
        return;
    }
    redis_unsent = (size_t)snprintf(redis_out, MAX_REDIS, "*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$%d\r\n%.*s\r\n",
        (int)(end - start), (int)(end - start), start);
}

/* A write that is not complete is an error: no load address exceeds the socket buffers. */
static void flush(void) {
    if (mode <= ONCE) send_batch();
    if (redis_unsent && write(redis, redis_out, redis_unsent) != (ssize_t)redis_unsent) fail("Redis does not read");
    redis_unsent = 0;
    for (size_t i = 0; i < dirty_length; i++) {
        struct client *client = dirty[i];
        client->dirty = 0;
        if (client->socket < 0) release(client);
        else if (write(client->socket, client->out, client->unsent) != (ssize_t)client->unsent) close_client(client);
        else client->unsent = 0;
    }
    dirty_length = 0;
}

static struct sockaddr_in loopback(const char *port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Loads the script into Redis, which returns its digest. */
static void load(const char *script) {
    int length = snprintf(redis_out, MAX_REDIS, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%zu\r\n%s\r\n",
        strlen(script), script);

    if (write(redis, redis_out, (size_t)length) != length) fail("Redis does not read");
    if (recv(redis, redis_in, 47, MSG_WAITALL) != 47 || memcmp(redis_in, "$40\r\n", 5))
        fail("SCRIPT LOAD failed");
    memcpy(digest, redis_in + 5, 40);
}

static void open_sockets(const char *port, const char *redis_port) {
    struct sockaddr_in address = loopback(port);
    int on = 1;

    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) fail("listen");
    watch(listener, &listener);
    if (mode == STATIC) return;
    address = loopback(redis_port);
    redis = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(redis, (struct sockaddr *)&address, sizeof address)) fail("connect to Redis");
    no_delay(redis);
    watch(redis, &redis);
}

int main(int count, char **arguments) {
    static struct epoll_event events[MAX_EVENTS];

    signal(SIGPIPE, SIG_IGN);
    if (count == 4 && !strcmp(arguments[1], "combine")) mode = COMBINE;
    else if (count == 5 && !strcmp(arguments[1], "once")) mode = ONCE;
    else if (count == 4 && !strcmp(arguments[1], "each")) mode = EACH;
    else if (count == 3 && !strcmp(arguments[1], "static")) mode = STATIC;
    else {
        fprintf(stderr, "usage: limit combine|once|each|static PORT [REDIS_PORT [SCRIPT]]\n");
        return 2;
    }
    open_sockets(arguments[2], arguments[3]);
    if (mode == ONCE) load(arguments[4]);
    for (;;) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        update_head();
        for (int i = 0; i < ready; i++) {
            void *source = events[i].data.ptr;
            if (source == &listener) accept_client();
            else if (source == &redis) read_redis();
            else read_client(source);
        }
        flush();
    }
}
