// The forward pass, from scenes to tokens. kernels.cpp includes this once per instruction set, inside a namespace that
// defines Sum, add_pairs and the tile sizes MANY, WIDE.
//
// Activations are rounded to int16 row by row, weights are int8 or int16; products are summed exactly in int32. Floats
// are summed in 16 lanes, whose order is the same for all instruction sets, without fused multiply-add. So a row's
// result does not depend on the other rows, on the number of threads, or on the CPU.

typedef float F16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int16_t S16 __attribute__((vector_size(32), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE F16 &at(float *p) { return *(F16 *)p; }
INLINE const F16 &at(const float *p) { return *(const F16 *)p; }

INLINE F16 all(float v) { return F16{} + v; }

// a where the lane of x is negative, b elsewhere. Bitwise, because gcc splits vector comparisons wider than a register.
INLINE F16 negative(I16 x, F16 a, F16 b) {
    I16 mask = x >> 31;
    return (F16)(((I16)a & mask) | ((I16)b & ~mask));
}

INLINE F16 larger(F16 a, F16 b) { return negative((I16)(a - b), b, a); }

INLINE F16 absolute(F16 x) { return (F16)((I16)x & 0x7fffffff); }

INLINE float total(F16 v) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}

INLINE float largest(F16 v) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] = v[i] > v[i + n] ? v[i] : v[i + n];
    return v[0];
}

constexpr float ROUND = 12582912.f;  // 1.5 * 2^23: adding it rounds to the nearest integer, kept in the low bits

// e^x for x in [-87, 88], relative error 1e-7 (Cephes expf).
INLINE F16 exponential(F16 x) {
    F16 shifted = x * 1.44269504f + ROUND;
    F16 n = shifted - ROUND;
    F16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    F16 p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    return (F16)((I16)p + ((I16)shifted << 23));
}

INLINE F16 sigmoid(F16 x) {
    F16 e = exponential(larger(all(-87.f), -larger(all(-87.f), x)));
    return 1.f / (1.f + e);
}

INLINE F16 silu(F16 x) { return x * sigmoid(x); }

// GELU, tanh form: 0.5 x (1 + tanh u) = x sigmoid(2u).
INLINE F16 gelu(F16 x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

// Quantises n floats (a multiple of 16) to int16; returns the scale, the value of one unit.
static float rounded(const float *x, int n, float limit, int16_t *q) {
    F16 top = {};
    for (int i = 0; i < n; i += 16) top = larger(absolute(at(x + i)), top);
    float most = largest(top);
    if (!(most > 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        return 0.f;
    }
    F16 inverse = all(limit / most);
    for (int i = 0; i < n; i += 16) {
        I16 bits = (I16)(at(x + i) * inverse + ROUND);
        *(S16 *)(q + i) = __builtin_convertvector(bits << 16 >> 16, S16);
    }
    return most / limit;
}

// x (n) divided by its root mean square, times gain (Zhang & Sennrich 2019).
static void normed(const float *x, int n, const float *gain, float *y) {
    F16 sum = {};
    for (int i = 0; i < n; i += 16) sum += at(x + i) * at(x + i);
    float scale = 1.f / __builtin_sqrtf(total(sum) / n + 1e-6f);
    for (int i = 0; i < n; i += 16) at(y + i) = at(x + i) * scale * at(gain + i);
}

enum Finish { SET, ADD };

template <int ROWS, int BLOCKS>
static void tile(const Linear &l, int block, const int16_t *q, const float *unit, float *y, int stride, Finish finish) {
    Sum sum[ROWS][BLOCKS] = {};
    const int16_t *w = l.packed + (size_t)block * l.in * 16;
    for (int i = 0; i < l.in; i += 2) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, q + (size_t)r * l.in + i, 4);
#pragma GCC unroll 8
            for (int b = 0; b < BLOCKS; b++) add_pairs(sum[r][b], w + (size_t)b * l.in * 16 + i * 16, pair);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < BLOCKS; b++) {
            int32_t lanes[16];
            memcpy(lanes, &sum[r][b], 64);
            int o = (block + b) * 16;
            F16 v = __builtin_convertvector(*(I16 *)lanes, F16) * (at(l.scale + o) * unit[r]) + at(l.bias + o);
            F16 &to = at(y + (size_t)r * stride + o);
            to = finish == ADD ? to + v : v;
        }
}

template <int ROWS, int BLOCKS>
static void band(const Linear &l, const int16_t *q, const float *unit, float *y, int stride, Finish finish) {
    int b = 0;
    for (; b + BLOCKS <= l.blocks; b += BLOCKS) tile<ROWS, BLOCKS>(l, b, q, unit, y, stride, finish);
    for (; b < l.blocks; b++) tile<ROWS, 1>(l, b, q, unit, y, stride, finish);
}

// Applies a linear layer to int16 rows (rows, in) with scales unit[row]; writes to y (rows, stride), or adds to it.
static void linear(const Linear &l, const int16_t *q, const float *unit, int rows, float *y, int stride,
                   Finish finish = SET) {
    int r = 0;
    for (; r + MANY <= rows; r += MANY)
        band<MANY, WIDE>(l, q + (size_t)r * l.in, unit + r, y + (size_t)r * stride, stride, finish);
    for (; r + 2 <= rows; r += 2)
        band<2, 2 * WIDE>(l, q + (size_t)r * l.in, unit + r, y + (size_t)r * stride, stride, finish);
    for (; r < rows; r++)
        band<1, 4 * WIDE>(l, q + (size_t)r * l.in, unit + r, y + (size_t)r * stride, stride, finish);
}

// Applies a linear layer to one vector (in) of floats.
static void single(const Linear &l, const float *x, float *y, Work &w) {
    float unit = rounded(x, l.in, l.limit, w.ints);
    linear(l, w.ints, &unit, 1, y, l.blocks * 16);
}

// Writes both frames of one camera in a scene, (2, height, width, 3), to its rows of the prefix (patches, dim): 8x8 px
// cells (the current frame and its difference from the one before), GELU, then a patch of cells. position: that of the
// camera's first patch.
static void look(const Model &m, const Picture &p, const float *position, const uint8_t *frames, float *x, Work &w) {
    const int cells = m.patch / 8, columns = p.width / m.patch, in = 2 * CELL_BYTES, stem = m.linear[CELL].blocks * 16;
    const int each = cells * cells, wide = each * stem;
    const uint8_t *now = frames + (size_t)p.height * p.width * 3;
    for (int row = 0; row < p.height / m.patch; row++) {
        for (int column = 0; column < columns; column++)
            for (int c = 0; c < each; c++) {
                const int line0 = row * m.patch + c / cells * 8, pixel0 = column * m.patch + c % cells * 8;
                int16_t *q = w.ints + (size_t)(column * each + c) * in;
                for (int line = 0; line < 8; line++) {
                    const size_t corner = ((size_t)(line0 + line) * p.width + pixel0) * 3;
                    for (int i = 0; i < 24; i++) {
                        q[line * 24 + i] = now[corner + i] - 128;
                        q[CELL_BYTES + line * 24 + i] = 2 * (now[corner + i] - frames[corner + i]);
                    }
                }
            }
        for (int i = 0; i < columns * each; i++) w.unit[i] = 1.f / 64;
        linear(m.linear[CELL], w.ints, w.unit, columns * each, w.wide, stem);
        for (int i = 0; i < columns * wide; i += 16) at(w.wide + i) = gelu(at(w.wide + i));
        for (int i = 0; i < columns; i++)
            w.unit[i] = rounded(w.wide + (size_t)i * wide, wide, m.linear[PATCH].limit, w.ints + (size_t)i * wide);
        float *y = x + (size_t)row * columns * m.dim;
        memcpy(y, position + (size_t)row * columns * m.dim, sizeof(float) * columns * m.dim);
        linear(m.linear[PATCH], w.ints, w.unit, columns, y, m.dim, ADD);
    }
}

// Applies the two layers of a flat input (ego or route), with a SiLU in between.
static void embed_input(const Model &m, int first, const float *in, float *y, Work &w) {
    const Linear &l = m.linear[first];
    single(l, in, w.wide, w);
    for (int i = 0; i < m.dim; i += 16) at(w.wide + i) = silu(at(w.wide + i));
    single(m.linear[first + 1], w.wide, y, w);
}

// The prefix embeddings of one scene: task, image patches of each camera, ego, route.
static void prefix(const Model &m, const Inputs &in, int scene, float *x, Work &w) {
    memcpy(x, m.embed + (size_t)m.task * m.dim, sizeof(float) * m.dim);
    const float *position = m.position;
    float *to = x + m.dim;
    for (size_t c = 0; c < m.pictures.size(); c++) {
        const Picture &p = m.pictures[c];
        look(m, p, position, in.frames[c] + (size_t)scene * 2 * p.height * p.width * 3, to, w);
        const size_t taken = (size_t)(p.height / m.patch) * (p.width / m.patch) * m.dim;
        position += taken, to += taken;
    }
    float *after = x + (size_t)(m.prefix - 2) * m.dim;
    embed_input(m, EGO, in.ego + (size_t)scene * m.linear[EGO].in, after, w);
    embed_input(m, ROUTE, in.route + (size_t)scene * m.linear[ROUTE].in, after + m.dim, w);
}

INLINE void rotate(const Model &m, float *x, int position) {
    const int half = m.head_dim / 2;
    const float *cosine = m.rope + (size_t)position * half, *sine = cosine + (size_t)m.positions * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

// Attention of ROWS queries that share a key-value head; results overwrite the queries. Keys are (head_dim, room),
// values (room, head_dim); row r sees the first seen[r] of them, and the last row sees the most.
template <int ROWS>
static void attend(const Model &m, float *const *q, const int *seen, const float *keys, const float *values) {
    const int most = seen[ROWS - 1];
    const I16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const float scale = 1.f / __builtin_sqrtf((float)m.head_dim);
    float p[ROWS][LONGEST], share[ROWS];
    F16 top[ROWS];
    for (int r = 0; r < ROWS; r++) top[r] = all(-3e38f);
    for (int s = 0; s < most; s += 16) {
        F16 dot[ROWS] = {};
        for (int d = 0; d < m.head_dim; d++) {
            F16 k = at(keys + (size_t)d * m.room + s);
            for (int r = 0; r < ROWS; r++) dot[r] += k * q[r][d];
        }
        for (int r = 0; r < ROWS; r++) {
            F16 v = negative(lane + (s - seen[r]), dot[r] * scale, all(-3e38f));
            at(p[r] + s) = v;
            top[r] = larger(v, top[r]);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        float high = largest(top[r]);
        F16 sum = {};
        for (int s = 0; s < most; s += 16) {
            F16 e = exponential(larger(all(-87.f), at(p[r] + s) - high));
            e = negative(lane + (s - seen[r]), e, F16{});
            at(p[r] + s) = e;
            sum += e;
        }
        share[r] = 1.f / total(sum);
    }
    for (int d = 0; d < m.head_dim; d += 16) {
        F16 out[ROWS] = {};
        for (int s = 0; s < most; s++) {
            F16 v = at(values + (size_t)s * m.head_dim + d);
            for (int r = 0; r < ROWS; r++) out[r] += v * p[r][s];
        }
        for (int r = 0; r < ROWS; r++) at(q[r] + d) = out[r] * share[r];
    }
}

// Attention of one scene; results overwrite the queries (tokens, heads, head_dim).
static void attention(const Model &m, float *q, int tokens, int filled, const float *keys, const float *values) {
    const int group = m.heads / m.kv_heads, rows = tokens * group;
    const bool both_ways = filled == 0 && m.bidirectional;
    for (int n = 0; n < m.kv_heads; n++) {
        const size_t head = (size_t)n * m.head_dim;
        const float *k = keys + head * m.room, *v = values + head * m.room;
        float *who[4];
        int seen[4];
        for (int r = 0, have = 0; r < rows; r++) {
            const int t = r / group;
            who[have] = q + ((size_t)t * m.heads + n * group + r % group) * m.head_dim;
            seen[have++] = filled + (both_ways ? tokens : t + 1);
            if (have == 4) {
                attend<4>(m, who, seen, k, v);
                have = 0;
            } else if (r + 1 == rows) {
                for (int i = 0; i < have; i++) attend<1>(m, who + i, seen + i, k, v);
            }
        }
    }
}

// Keys, values and (if `answer`) queries of rows [from, from + n) of w.x; see `block`. Both layers have the same limit.
static void project(const Model &m, Work &w, int layer, int from, int n, int tokens, int filled, int position,
                    bool answer) {
    const Linear *l = m.linear + LAYERS + layer * PER_LAYER;
    const int span = m.kv_heads * m.head_dim, queries = m.heads * m.head_dim;
    for (int i = 0; i < n; i++) {
        normed(w.x + (size_t)(from + i) * m.dim, m.dim, m.norm[2 * layer], w.narrow);
        w.unit[i] = rounded(w.narrow, m.dim, l[KV].limit, w.ints + (size_t)i * m.dim);
    }
    linear(l[KV], w.ints, w.unit, n, w.wide, 2 * span);
    for (int i = 0; i < n; i++) {
        const int scene = (from + i) / tokens, t = (from + i) % tokens;
        float *k = w.wide + (size_t)i * 2 * span;
        float *keys = w.keys(m, layer, scene), *values = w.values(m, layer, scene);
        for (int h = 0; h < m.kv_heads; h++, k += m.head_dim) {
            rotate(m, k, position + t);
            for (int d = 0; d < m.head_dim; d++) keys[((size_t)h * m.head_dim + d) * m.room + filled + t] = k[d];
            memcpy(values + ((size_t)h * m.room + filled + t) * m.head_dim, k + span, sizeof(float) * m.head_dim);
        }
    }
    if (!answer) return;
    float *q = w.q + (size_t)from * queries;
    linear(l[Q], w.ints, w.unit, n, q, queries);
    for (int i = 0; i < n * m.heads; i++)
        rotate(m, q + (size_t)i * m.head_dim, position + (from + i / m.heads) % tokens);
}

// The rest of a layer after attention, on rows [from, from + n): output layer, then gated feed-forward (Shazeer 2020).
static void digest(const Model &m, Work &w, int layer, int from, int n) {
    const Linear *l = m.linear + LAYERS + layer * PER_LAYER;
    const int queries = m.heads * m.head_dim;
    float *x = w.x + (size_t)from * m.dim;
    for (int i = 0; i < n; i++)
        w.unit[i] = rounded(w.q + (size_t)(from + i) * queries, queries, l[O].limit, w.ints + (size_t)i * queries);
    linear(l[O], w.ints, w.unit, n, x, m.dim, ADD);
    for (int i = 0; i < n; i++) {
        normed(x + (size_t)i * m.dim, m.dim, m.norm[2 * layer + 1], w.narrow);
        w.unit[i] = rounded(w.narrow, m.dim, l[GATE_UP].limit, w.ints + (size_t)i * m.dim);
    }
    linear(l[GATE_UP], w.ints, w.unit, n, w.wide, 2 * m.ffn);
    for (int i = 0; i < n; i++) {
        float *gate = w.wide + (size_t)i * 2 * m.ffn;
        for (int j = 0; j < m.ffn; j += 16) at(gate + j) = silu(at(gate + j)) * at(gate + m.ffn + j);
        w.unit[i] = rounded(gate, m.ffn, l[DOWN].limit, w.ints + (size_t)i * m.ffn);
    }
    linear(l[DOWN], w.ints, w.unit, n, x, m.dim, ADD);
}

// One decoder layer on w.x (scenes * tokens, dim), whose keys are appended to the `filled` ones; `position` is the
// rotary position of the first token. Without `answer` only keys and values are computed, because these rows are not
// read.
static void block(const Model &m, Work &w, int layer, int scenes, int tokens, int filled, int position, bool answer) {
    const int rows = scenes * tokens;
    for (int r = 0; r < rows; r += STRIP)
        project(m, w, layer, r, rows - r < STRIP ? rows - r : STRIP, tokens, filled, position, answer);
    if (!answer) return;
    for (int s = 0; s < scenes; s++)
        attention(m, w.q + (size_t)s * tokens * m.heads * m.head_dim, tokens, filled, w.keys(m, layer, s),
                  w.values(m, layer, s));
    for (int r = 0; r < rows; r += STRIP) digest(m, w, layer, r, rows - r < STRIP ? rows - r : STRIP);
}

// Selects a code from the logits of n codes and the speed: the one that leads where most of the probability leads.
// control (2): the mean of the codes that support it (codec.votes). The logits are overwritten by probabilities.
static int select_code(const Model &m, float *logits, int n, float speed, float *control) {
    F16 top = at(logits);
    for (int i = 16; i < n; i += 16) top = larger(at(logits + i), top);
    const float high = largest(top);
    for (int i = 0; i < n; i += 16) at(logits + i) = exponential(larger(all(-87.f), at(logits + i) - high));
    const int last = VOTE_SPEEDS - 1;  // also for speeds that overflow int, and for NaN
    const int row = speed < last * VOTE_STEP ? (int)(speed / VOTE_STEP + 0.5f) : last;
    const float *table = m.votes + (size_t)row * n * n;
    int best = 0;
    float most = -1.f;
    for (int to = 0; to < n; to += 16) {
        F16 sum = {};
        for (int i = 0; i < n; i++) sum += at(table + (size_t)i * n + to) * logits[i];
        for (int i = 0; i < 16; i++)
            if (sum[i] > most) most = sum[i], best = to + i;
    }
    F16 share = {}, acceleration = {}, curvature = {};
    for (int i = 0; i < n; i += 16) {
        const F16 voice = at(table + (size_t)best * n + i) * at(logits + i);
        share += voice;
        acceleration += voice * at(m.codebook + i);
        curvature += voice * at(m.codebook + n + i);
    }
    control[0] = total(acceleration) / total(share);
    control[1] = total(curvature) / total(share);
    return best;
}

// One decoding step: a token id per scene in, the head's best id per scene out (the first among equals). With speeds
// (scenes), codes are selected, speeds advance, and the controls are written (2 floats every `stride`).
static void next(const Model &m, Work &w, int scenes, int filled, int position, int head, const int *ids, float *speed,
                 float *control, int stride, int *best) {
    for (int s = 0; s < scenes; s++)
        memcpy(w.x + (size_t)s * m.dim, m.embed + (size_t)ids[s] * m.dim, sizeof(float) * m.dim);
    for (int layer = 0; layer < m.layers; layer++) block(m, w, layer, scenes, 1, filled, position, true);
    const Linear &l = m.linear[head];
    for (int s = 0; s < scenes; s++) {
        normed(w.x + (size_t)s * m.dim, m.dim, m.norm[2 * m.layers], w.narrow);
        w.unit[s] = rounded(w.narrow, m.dim, l.limit, w.ints + (size_t)s * m.dim);
    }
    linear(l, w.ints, w.unit, scenes, w.wide, l.blocks * 16);
    for (int s = 0; s < scenes; s++) {
        float *logits = w.wide + (size_t)s * l.blocks * 16;
        if (speed) {
            best[s] = select_code(m, logits, l.out, speed[s], control + (size_t)s * stride);
            const float then = speed[s] + STEP_S * control[(size_t)s * stride];
            speed[s] = then > 0.f ? then : 0.f;
            continue;
        }
        best[s] = 0;
        for (int i = 1; i < l.out; i++)
            if (logits[i] > logits[best[s]]) best[s] = i;
    }
}

// Plan codes and controls, or reasoning ids, of scenes [from, from + n) of the inputs; n <= CHUNK.
static void answer(const Model &m, Work &w, const Inputs &in, int from, int n, bool reason, const Outputs &all) {
    for (int s = 0; s < n; s++) prefix(m, in, from + s, w.x + (size_t)s * m.prefix * m.dim, w);
    for (int layer = 0; layer < m.layers; layer++) block(m, w, layer, n, m.prefix, 0, 0, layer + 1 < m.layers);
    const int steps = reason ? m.max_text : m.plan, head = reason ? TEXT : CODES;
    const int first = m.prefix + (reason ? 0 : m.max_text);  // positions of actions follow the longest text
    int32_t *out = all.ids + (size_t)from * steps;
    float *controls = all.controls + (size_t)from * m.plan * 2;
    int ids[CHUNK], best[CHUNK], live = n;
    bool done[CHUNK] = {};
    float speed[CHUNK];
    for (int s = 0; s < n; s++) ids[s] = reason ? m.think : m.act, speed[s] = in.speed[from + s] > 0.f ? in.speed[from + s] : 0.f;
    for (int k = 0; k < steps && live; k++) {
        next(m, w, n, m.prefix + k, first + k, head, ids, reason ? nullptr : speed, controls + 2 * k, 2 * m.plan, best);
        for (int s = 0; s < n; s++) {
            const bool end = reason && (best[s] == EOS || k + 1 == steps);
            out[(size_t)s * steps + k] = done[s] ? PAD : end ? EOS : best[s];
            ids[s] = best[s] + (reason ? 0 : m.text_vocab);
            live -= end && !done[s];
            done[s] = done[s] || end;
        }
    }
}

#undef INLINE
