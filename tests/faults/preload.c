/* Injects disk faults, loaded before the C library. The file that FAULTS names has a line for each call:
 * "CALL HOW ERRNO". It is read at each call, so that a test can change it at any time.
 *
 * Only calls on a file with "notch.ledger" in its name are affected. HOW is one of:
 *   fail   the call does nothing and reports the error
 *   done   the call succeeds and reports the error
 *   short  every other call writes half of the bytes, and the next reports the error
 *   once   as fail, but only for the first call
 *   hang   the call waits until the file is removed; meanwhile a file of its name with ".hung" at the end exists */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum how { GOOD, FAIL, DONE, SHORT, ONCE, HANG };

static int is_ledger(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "notch.ledger") != NULL;
}

static enum how read_fault(const char *call, int *error) {
    static const char *const names[] = {"good", "fail", "done", "short", "once", "hang"};
    const char *path = getenv("FAULTS");
    FILE *file = path ? fopen(path, "re") : NULL;
    char name[16], how[16];
    enum how found = GOOD;
    int number;
    while (file && fscanf(file, "%15s %15s %d", name, how, &number) == 3)
        for (int kind = FAIL; kind <= HANG; kind++)
            if (!strcmp(name, call) && !strcmp(how, names[kind])) found = kind, *error = number;
    if (file) fclose(file);
    return found;
}

static enum how fault(const char *call, int *error) {
    enum how how = read_fault(call, error);
    if (how == HANG) {
        char hung[4096];
        snprintf(hung, sizeof hung, "%s.hung", getenv("FAULTS"));
        close(open(hung, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        while (read_fault(call, error) == HANG) usleep(1000);
        return GOOD;
    }
    if (how == ONCE) {
        static char done[64];
        if (strstr(done, call)) return GOOD;
        strcat(done, call);
        return FAIL;
    }
    return how;
}

static int failed(int error) {
    errno = error;
    return -1;
}

#define REAL(name, type, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *bytes, size_t length) {
    ssize_t (*real)(int, const void *, size_t) = REAL("write", ssize_t, int, const void *, size_t);
    static int halves;
    int error;
    switch (is_ledger(fd) ? fault("write", &error) : GOOD) {
    case FAIL: return failed(error);
    case DONE: real(fd, bytes, length); return failed(error);
    case SHORT: return halves++ % 2 ? failed(error) : real(fd, bytes, length / 2);
    default: return real(fd, bytes, length);
    }
}

static int on_file(const char *call, int fd, int (*real)(int)) {
    int error;
    switch (is_ledger(fd) ? fault(call, &error) : GOOD) {
    case FAIL: return failed(error);
    case DONE: real(fd); return failed(error);
    default: return real(fd);
    }
}

int fsync(int fd) { return on_file("fsync", fd, REAL("fsync", int, int)); }

int fdatasync(int fd) { return on_file("fdatasync", fd, REAL("fdatasync", int, int)); }

int ftruncate64(int fd, off64_t length) {
    int (*real)(int, off64_t) = REAL("ftruncate64", int, int, off64_t);
    int error;
    switch (is_ledger(fd) ? fault("ftruncate", &error) : GOOD) {
    case FAIL: return failed(error);
    case DONE: real(fd, length); return failed(error);
    default: return real(fd, length);
    }
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = REAL("rename", int, const char *, const char *);
    int error;
    switch (strstr(to, "notch.ledger") ? fault("rename", &error) : GOOD) {
    case FAIL: return failed(error);
    case DONE: real(from, to); return failed(error);
    default: return real(from, to);
    }
}
