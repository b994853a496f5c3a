/* The time of day, CLOCK_OFF seconds from the true one. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long off(void) {
    const char *said = getenv("CLOCK_OFF");
    return said ? atol(said) : 0;
}

#define LIBC(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = LIBC(clock_gettime)(which, now);
    if (!done && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int done = LIBC(gettimeofday)(now, zone);
    if (!done) now->tv_sec += off();
    return done;
}

time_t time(time_t *where) {
    time_t now = LIBC(time)(NULL) + off();
    if (where) *where = now;
    return now;
}
