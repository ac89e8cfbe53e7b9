/*
 * The baseline: what the kernel allows a visit counter that does nothing else.
 *
 * One thread, one epoll loop, fixed buffers, no parser worth the name: a request is what ends in an empty line, and all
 * that is looked at is whether it starts with GET /count. A wake costs one read for each client that has written and one
 * write for each that is answered, and that is what is measured: a counter can lose against this only by what it does
 * between the system calls, or by doing more of them. The answer has the fields that notch gives, as short as they can
 * be told.
 *
 * It is no server to run: it trusts its clients and Redis, and gives up at the first thing that it did not expect.
 *
 * usage: limit MODE PORT [REDIS_PORT [SCRIPT]]
 *
 *   combine  one INCRBY for all visits that arrived while the one before was on its way
 *   once     the same by SCRIPT, notch's own, which keeps a receipt: what that costs, and what is left to notch
 *   each     one INCR for each visit, sent as they come
 *   static   no Redis at all: the number is the process's own
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

enum { MAX_EVENTS = 512, MAX_UNREAD = 4096, MAX_ANSWER = 300, MAX_UNSENT = 32768, MAX_REDIS = 1 << 20 };

struct client {
    int socket;
    size_t unread, unsent;
    int waiting;            /* visits sent to Redis, or about to be */
    int dirty;              /* in the list of those to write to */
    char in[MAX_UNREAD];
    char out[MAX_UNSENT];
};

/* Who waits, in the order of their visits. In combining, the first `sent` of them are on their way. */
struct ask {
    struct client *client;
    int visits;
};

static enum { COMBINE, ONCE, EACH, STATIC } mode;
static int poller, listener, redis;
static struct ask *asks;
static size_t first, last, room, sent;
static long sent_visits, own_total;
static struct client **dirty;
static size_t dirty_length, dirty_room;
static char redis_in[MAX_REDIS], redis_out[MAX_REDIS];
static size_t redis_unread, redis_unsent;
static const char INCR[] = "*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n";
static char digest[41];
static char head[MAX_ANSWER], tail[MAX_ANSWER];
static size_t head_length, tail_length;

static void give_up(const char *what) {
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void no_delay(int socket) {
    int on = 1;
    if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) give_up("TCP_NODELAY");
}

static void watch(int socket, void *who) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = who};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event)) give_up("epoll_ctl");
}

/* All of an answer but its length, its number, and what is between them changes once a second. */
static void renew_head(void) {
    static time_t made;
    static char host[65];
    time_t now = time(NULL);
    char date[64];

    if (now == made) return;
    if (!made) {
        gethostname(host, sizeof host - 1);
        tail_length = (size_t)snprintf(tail, sizeof tail,
            "\r\nCache-Control: no-store\r\nX-Served-By: %s\r\n\r\n", host);
    }
    made = now;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    head_length = (size_t)snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ", date);
}

static char *put(char *at, const char *bytes, size_t length) {
    memcpy(at, bytes, length);
    return at + length;
}

/* Writes the digits before `end` and says where they begin. */
static char *digits(char *end, long number) {
    do *--end = (char)('0' + number % 10);
    while (number /= 10);
    return end;
}

static void answer(struct client *client, long number) {
    char body[24], length[4], *body_end = body + sizeof body, *length_end = length + sizeof length;
    char *at = client->out + client->unsent, *body_start, *length_start;

    if (client->unsent + MAX_ANSWER * 2 > MAX_UNSENT) give_up("a client does not read its answers");
    body_end[-1] = '\n';
    body_start = digits(body_end - 1, number);
    length_start = digits(length_end, body_end - body_start);
    at = put(at, head, head_length);
    at = put(at, length_start, (size_t)(length_end - length_start));
    at = put(at, tail, tail_length);
    at = put(at, body_start, (size_t)(body_end - body_start));
    client->unsent = (size_t)(at - client->out);
    if (client->dirty) return;
    if (dirty_length == dirty_room && !(dirty = realloc(dirty, (dirty_room = dirty_room * 2 + 64) * sizeof *dirty)))
        give_up("memory");
    dirty[dirty_length++] = client;
    client->dirty = 1;
}

static void ask(struct client *client, int visits) {
    if (last == room) {
        if (first) memmove(asks, asks + first, (last - first) * sizeof *asks);
        last -= first;
        first = 0;
        if (last * 2 >= room && !(asks = realloc(asks, (room = room * 2 + 64) * sizeof *asks))) give_up("memory");
    }
    asks[last++] = (struct ask){client, visits};
    client->waiting += visits;
}

/* A client that is gone stays as long as the queue or the list of those to write to knows it. */
static void release(struct client *client) {
    if (client->socket < 0 && !client->waiting && !client->dirty) free(client);
}

static void close_client(struct client *client) {
    close(client->socket);
    client->socket = -1;
    release(client);
}

/* The numbers from `number` on go to whoever is next. */
static void settle(long number) {
    struct ask *next = asks + first++;
    struct client *client = next->client;

    for (int visit = 0; visit < next->visits; visit++)
        if (client->socket >= 0) answer(client, number + visit);
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
        if (strncmp(start, "GET /count ", 11)) give_up("a request for something else");
        end += 4;
        client->unread -= (size_t)(end - start);
        start = end;
        visits++;
    }
    memmove(client->in, start, client->unread);
    if (mode <= ONCE && visits) ask(client, visits);
    for (; mode > ONCE && visits; visits--) {
        if (mode == STATIC) {
            answer(client, ++own_total);
        } else {
            ask(client, 1);
            if (redis_unsent + 64 > MAX_REDIS) give_up("Redis does not read");
            redis_unsent = (size_t)(put(redis_out + redis_unsent, INCR, sizeof INCR - 1) - redis_out);
        }
    }
}

static void accept_client(void) {
    struct client *client = malloc(sizeof *client);

    if (!client) give_up("memory");
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

    if (got <= 0) give_up("Redis is gone");
    redis_unread += (size_t)got;
    while ((end = memchr(start, '\n', redis_unread))) {
        long total = strtol(start + 1, NULL, 10);
        if (mode == ONCE) {
            /* A bulk string: what there was before. Its second line has at least a digit. */
            char *next = end + 1;
            if (*start != '$') give_up("Redis refuses");
            if (!(end = memchr(next, '\n', redis_unread - (size_t)(next - start)))) break;
            total = strtol(next, NULL, 10) + sent_visits;
        } else if (*start != ':') {
            give_up("Redis refuses");
        }
        redis_unread -= (size_t)(end + 1 - start);
        start = end + 1;
        if (mode == EACH) {
            settle(total);
            continue;
        }
        for (long number = total - sent_visits + 1; sent; sent--) {
            int visits = asks[first].visits;
            settle(number);
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
    for (size_t i = first; i < last; i++) sent_visits += asks[i].visits;
    start = digits(end, sent_visits);
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

/* What the socket does not take at once is more than any load here writes unread. */
static void flush(void) {
    if (mode <= ONCE) send_batch();
    if (redis_unsent && write(redis, redis_out, redis_unsent) != (ssize_t)redis_unsent) give_up("Redis does not read");
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

/* Leaves the script with Redis, which says what to call it. */
static void load(const char *script) {
    int length = snprintf(redis_out, MAX_REDIS, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%zu\r\n%s\r\n",
        strlen(script), script);

    if (write(redis, redis_out, (size_t)length) != length) give_up("Redis does not read");
    if (recv(redis, redis_in, 47, MSG_WAITALL) != 47 || memcmp(redis_in, "$40\r\n", 5))
        give_up("Redis takes no script");
    memcpy(digest, redis_in + 5, 40);
}

static void open_sockets(const char *port, const char *redis_port) {
    struct sockaddr_in here = loopback(port);
    int on = 1;

    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) give_up("listen");
    watch(listener, &listener);
    if (mode == STATIC) return;
    here = loopback(redis_port);
    redis = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(redis, (struct sockaddr *)&here, sizeof here)) give_up("connect to Redis");
    no_delay(redis);
    watch(redis, &redis);
}

int main(int count, char **words) {
    static struct epoll_event events[MAX_EVENTS];

    signal(SIGPIPE, SIG_IGN);
    if (count == 4 && !strcmp(words[1], "combine")) mode = COMBINE;
    else if (count == 5 && !strcmp(words[1], "once")) mode = ONCE;
    else if (count == 4 && !strcmp(words[1], "each")) mode = EACH;
    else if (count == 3 && !strcmp(words[1], "static")) mode = STATIC;
    else {
        fprintf(stderr, "usage: limit combine|once|each|static PORT [REDIS_PORT [SCRIPT]]\n");
        return 2;
    }
    open_sockets(words[2], words[3]);
    if (mode == ONCE) load(words[4]);
    for (;;) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR) give_up("epoll_wait");
        renew_head();
        for (int i = 0; i < ready; i++) {
            void *who = events[i].data.ptr;
            if (who == &listener) accept_client();
            else if (who == &redis) read_redis();
            else read_client(who);
        }
        flush();
    }
}
