/* A disk with room for FULL_BYTES more bytes under FULL_UNDER: what libc is asked to write there beyond them fails with
   ENOSPC, whichever library asks. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long written;

static int full(int fd, size_t bytes) {
    const char *under = getenv("FULL_UNDER"), *room = getenv("FULL_BYTES");
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, path, sizeof path - 1);
    errno = before;
    if (!under || !room || got < 0) return 0;
    path[got] = 0;
    if (strncmp(path, under, strlen(under)) != 0) return 0;
    if (atomic_fetch_add(&written, (long)bytes) + (long)bytes <= atol(room)) return 0;
    errno = ENOSPC;
    return 1;
}

#define LIBC(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t bytes) {
    return full(fd, bytes) ? -1 : LIBC(write)(fd, data, bytes);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    return full(fd, bytes) ? -1 : LIBC(pwrite)(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    return full(fd, bytes) ? -1 : LIBC(pwrite64)(fd, data, bytes, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return full(fd, bytes) ? -1 : LIBC(writev)(fd, parts, count);
}
