// What a car watches for, through a plain C interface (see library.py). C++17, gcc, no libraries.

#include <cstdint>
#include <new>

#include "around.h"
#include "rules.h"

#define API extern "C" __attribute__((visibility("default")))

API const char *watch_source() { return WATCH_SOURCE; }

// null where there is no memory for it.
API void *watch_new(const void *steps, int n, const int32_t *rules, const double *cooldown, int rules_n, double max_hz) {
    try {
        return new watch::Watch(static_cast<const watch::Step *>(steps), n, rules, cooldown, rules_n, max_hz);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

API void watch_free(void *w) { delete static_cast<watch::Watch *>(w); }

API void watch_reset(void *w) { static_cast<watch::Watch *>(w)->reset(); }

// Number of firings, -1 where there is no memory for them.
API int64_t watch_run(void *w, const double *t, const double *values, int64_t n, uint8_t *truth) {
    try {
        auto *watch = static_cast<watch::Watch *>(w);
        watch->run(t, values, n, truth);
        return int64_t(watch->fired.size());
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

// The last run's firings, (count, 2) int32: rule, sample.
API const void *watch_fired(void *w) { return static_cast<watch::Watch *>(w)->fired.data(); }

// ego (T, 7), box length and width; kind (O,), size (O, 3), states (O, T, 4), valid (O, T) in; rows (ROWS, T) out. -1
// where there is no memory, as for the two below.
API int watch_around(const double *ego, int64_t steps, double length, double width, const int64_t *kind,
                     const float *size, const float *states, const uint8_t *valid, int count, double *rows) {
    try {
        std::vector<watch::Object> objects(count);
        for (int64_t k = 0; k < count; ++k)
            objects[k] = {kind[k], size[3 * k] / 2.0, size[3 * k + 1] / 2.0, states + 4 * steps * k, valid + steps * k};
        watch::around(ego, steps, length, width, objects.data(), count, rows);
        return 0;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

// line (R, 2), xy (T, 2) in; (T, 3) along, left, piece out.
API int watch_place(const double *line, int64_t points, const double *xy, int64_t steps, double *out) {
    try {
        std::vector<watch::Place> found(steps);
        watch::place_on(line, points, xy, steps, found.data());
        for (int64_t k = 0; k < steps; ++k)
            out[3 * k] = found[k].along, out[3 * k + 1] = found[k].left, out[3 * k + 2] = double(found[k].piece);
        return 0;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

// x (T, D), set (D, N) in; distances (T,) out.
API int watch_nearest(const float *x, int64_t steps, int dims, const float *set, int64_t n, double *out) {
    try {
        watch::nearest(x, steps, dims, set, n, out);
        return 0;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}
