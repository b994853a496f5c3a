// A drive's arrays in, what surrounds the car at each sample out: road users, its place on the route, the nearest of a
// set of embeddings. A sample's result depends only on it and the previous one, never on the number per call.

#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace watch {

// The order of AROUND in signals.py.
enum Row {
    GAP, TTC, PEDESTRIAN_GAP, CYCLIST_GAP, LEAD_GAP, LEAD_SPEED, STOPPED_GAP, ONCOMING_GAP, CUT_IN_GAP, CROSSING_GAP, NEAR,
    ROWS
};
constexpr int PEDESTRIAN = 2, CYCLIST = 3;
constexpr double FAR = 80, BESIDE = 12, CROSSING = 4;  // m ahead; to the side of the way; and for who walks into it
constexpr double NEARBY = 30;                          // m
constexpr double STANDS = 0.5, MOVES = 1;              // m/s
constexpr double DRIFTS = 0.3, WALKS = 0.5;            // m/s towards the car's way
constexpr double BENDS = 1;                            // m/s: below, a yaw rate says nothing of the way's curvature

struct Object {
    int64_t kind;
    double length, width;  // halves
    const float *states;   // (T, 4) x, y, yaw, speed
    const uint8_t *valid;
};

struct Ego {
    double x, y, yaw, cos, sin, speed, bend, length, width;  // bend: curvature of its way, 1/m; halves
};

// One road user at one sample; rows: ROWS values, far apart by stride; was_beside: its answer at the sample before. True
// where it is beside the ego's (bent) way: ahead, near, and not in it.
inline bool surround(const Object &o, const float *state, const Ego &e, bool was_beside, double *rows, int64_t stride) {
    double dx = state[0] - e.x, dy = state[1] - e.y, turn = state[2] - e.yaw, speed = state[3];
    double ahead = dx * e.cos + dy * e.sin, left = dy * e.cos - dx * e.sin;
    double turn_cos = std::cos(turn), turn_sin = std::sin(turn), c = std::fabs(turn_cos), s = std::fabs(turn_sin);
    double space_x = std::fabs(ahead) - (c * o.length + s * o.width) - e.length;
    double space_y = std::fabs(left) - (s * o.length + c * o.width) - e.width;
    double free = std::max(space_x, 0.0), apart = std::hypot(free, std::max(space_y, 0.0));
    auto least = [&](int row, double value) { rows[row * stride] = std::min(rows[row * stride], value); };
    least(GAP, apart);
    if (o.kind == PEDESTRIAN) least(PEDESTRIAN_GAP, apart);
    if (o.kind == CYCLIST) least(CYCLIST_GAP, apart);
    rows[NEAR * stride] += apart < NEARBY;
    if (!(ahead > 0)) return false;
    double closing = e.speed - speed * turn_cos;
    if (space_y < 0 && closing > 0.1) least(TTC, free / closing);
    double off = left - e.bend * ahead * ahead / 2;
    if (ahead > FAR || std::fabs(off) > BESIDE + o.length + e.width) return false;
    double along = turn - e.bend * ahead, along_cos = std::cos(along), along_sin = std::sin(along);
    double beside = std::fabs(off) - (std::fabs(along_sin) * o.length + std::fabs(along_cos) * o.width) - e.width;
    double inwards = (off > 0 ? -speed : speed) * along_sin;
    bool inside = beside < 0, walks = o.kind == PEDESTRIAN;
    if (!walks && inside && along_cos > 0 && free < rows[LEAD_GAP * stride]) {
        rows[LEAD_GAP * stride] = free;
        rows[LEAD_SPEED * stride] = speed * along_cos;
    }
    if (!walks && inside && speed < STANDS) least(STOPPED_GAP, free);
    if (!walks && along_cos < -0.7 && speed > MOVES && beside < BESIDE) least(ONCOMING_GAP, free);
    if (!walks && inside && was_beside && along_cos > 0.5 && inwards > DRIFTS) least(CUT_IN_GAP, free);
    if ((walks && inside) || ((walks || o.kind == CYCLIST) && beside < CROSSING && inwards > WALKS))
        least(CROSSING_GAP, free);
    return !inside;
}

// ego (T, 7); objects O; rows (ROWS, T).
inline void around(const double *ego, int64_t steps, double length, double width, const Object *objects, int count,
                   double *rows) {
    std::vector<Ego> egos(steps);
    for (int64_t i = 0; i < steps; ++i) {
        const double *e = ego + 7 * i;
        double bend = e[3] > BENDS && std::isfinite(e[5]) ? e[5] / e[3] : 0;
        egos[i] = {e[0], e[1], e[2], std::cos(e[2]), std::sin(e[2]), e[3], bend, length / 2, width / 2};
    }
    for (int row = 0; row < ROWS; ++row)
        std::fill(rows + row * steps, rows + (row + 1) * steps, row == NEAR ? 0.0 : std::numeric_limits<double>::infinity());
    std::fill(rows + LEAD_SPEED * steps, rows + (LEAD_SPEED + 1) * steps, std::nan(""));
    for (int k = 0; k < count; ++k) {
        bool beside = false;
        for (int64_t i = 0; i < steps; ++i)
            beside = objects[k].valid[i] && surround(objects[k], objects[k].states + 4 * i, egos[i], beside, rows + i, steps);
    }
}

struct Place {
    double along, left;  // m; left is unknown before the line begins and after it ends
    int64_t piece;
};

// Where the points xy (T, 2) are on a polyline (R, 2): the nearest piece, the first of equals. Pieces lie in circles of
// GROUP, and a circle that cannot hold a nearer one is passed over.
inline void place_on(const double *line, int64_t points, const double *xy, int64_t steps, Place *out) {
    constexpr int64_t GROUP = 16;
    struct Circle {
        double x, y, r;
    };
    int64_t pieces = points - 1, groups = (pieces + GROUP - 1) / GROUP;
    std::vector<Circle> circles(groups);
    std::vector<double> start(points, 0.0);
    for (int64_t i = 1; i < points; ++i)
        start[i] = start[i - 1] + std::hypot(line[2 * i] - line[2 * i - 2], line[2 * i + 1] - line[2 * i - 1]);
    for (int64_t g = 0; g < groups; ++g) {
        int64_t a = g * GROUP, b = std::min(a + GROUP, pieces), m = (a + b) / 2;
        double r = 0;
        for (int64_t i = a; i <= b; ++i)
            r = std::max(r, std::hypot(line[2 * i] - line[2 * m], line[2 * i + 1] - line[2 * m + 1]));
        circles[g] = {line[2 * m], line[2 * m + 1], r};
    }
    int64_t near = 0;  // the group that held the last point: only where to look first
    for (int64_t k = 0; k < steps; ++k) {
        double x = xy[2 * k], y = xy[2 * k + 1], best = std::numeric_limits<double>::infinity();
        Place found{0, 0, -1};
        auto look = [&](int64_t g) {
            for (int64_t i = g * GROUP, end = std::min(i + GROUP, pieces); i < end; ++i) {
                double ax = line[2 * i], ay = line[2 * i + 1], ux = line[2 * i + 2] - ax, uy = line[2 * i + 3] - ay;
                double size = ux * ux + uy * uy, dx = x - ax, dy = y - ay;
                double at = size > 0 ? (dx * ux + dy * uy) / size : 0, f = std::min(1.0, std::max(0.0, at));
                double ex = dx - f * ux, ey = dy - f * uy, far = ex * ex + ey * ey;
                if (far < best || (far == best && i < found.piece)) {
                    double left = ux * dy - uy * dx < 0 ? -std::sqrt(far) : std::sqrt(far);
                    bool beyond = (i == 0 && at < 0) || (i == pieces - 1 && at > 1);
                    best = far;
                    found = {start[i] + f * std::sqrt(size), beyond ? std::nan("") : left, i};
                    near = g;
                }
            }
        };
        int64_t first = near;
        look(first);
        for (int64_t g = 0; g < groups; ++g) {
            double dx = x - circles[g].x, dy = y - circles[g].y, reach = std::sqrt(best) + circles[g].r + 1e-6;
            if (g != first && dx * dx + dy * dy <= reach * reach) look(g);
        }
        out[k] = found;
    }
}

// Distance of each of x (T, D) to the nearest of set (D, N).
inline void nearest(const float *x, int64_t steps, int dims, const float *set, int64_t n, double *out) {
    std::vector<float> far(n);
    for (int64_t k = 0; k < steps; ++k) {
        std::fill(far.begin(), far.end(), 0.0f);
        for (int d = 0; d < dims; ++d) {
            float at = x[k * dims + d];
            const float *row = set + d * n;
            for (int64_t i = 0; i < n; ++i) far[i] += (row[i] - at) * (row[i] - at);
        }
        float best = std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < n; ++i) best = far[i] < best ? far[i] : best;
        out[k] = std::sqrt(double(best));
    }
}

}  // namespace watch
