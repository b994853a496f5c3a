// Engine kernels: plan codes and reasoning ids behind a plain C interface (see kernels.py). C++17, gcc, no libraries.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int CELL_BYTES = 8 * 8 * 3;
constexpr int CHUNK = 8;      // scenes per task of a thread: enough rows for wide tiles, few enough for the cache
constexpr int STRIP = 32;     // rows that pass through a layer's matmuls together
constexpr int LONGEST = 512;  // maximum number of keys that a query can see
constexpr int PAD = 0, EOS = 1;
constexpr int VOTE_SPEEDS = 41;  // VOTE_SPEEDS, VOTE_STEP and STEP_S as in codec.py
constexpr float VOTE_STEP = 0.5f, STEP_S = 0.5f;

// Indices of the matrices; those of the layers follow LAYERS.
enum { CELL, PATCH, EGO, EGO_OUT, ROUTE, ROUTE_OUT, TEXT, CODES, LAYERS };
enum { Q, KV, O, GATE_UP, DOWN, PER_LAYER };

// y = scale * (weights . q) * unit + bias. packed: (out/16, in/2, 16, 2), zeros past the last row; limit: the largest
// activation for which no sum overflows int32.
struct Linear {
    int in = 0, out = 0, blocks = 0;
    float limit = 0;
    const int16_t *packed = nullptr;
    const float *scale = nullptr, *bias = nullptr;
};

struct Picture {
    int height, width;
};

struct Inputs {
    const uint8_t *const *frames;  // one array per camera
    const float *ego, *route, *speed;
};

struct Outputs {
    int32_t *ids;     // (scenes, plan), or (scenes, max_text) for reasoning
    float *controls;  // (scenes, plan, 2)
};

struct Model;

// Working memory of one thread.
struct Work {
    std::vector<float> floats;
    std::vector<int16_t> words;
    float *x, *q, *wide, *narrow, *unit, *cache;
    int16_t *ints;

    explicit Work(const Model &m);
    float *keys(const Model &m, int layer, int scene) const;
    float *values(const Model &m, int layer, int scene) const;
};

struct Model {
    int patch, dim, layers, heads, kv_heads, head_dim, ffn, text_vocab, max_text, plan, task, think, act,
        bidirectional;
    std::vector<Picture> pictures;
    int prefix = 0, positions = 0, room = 0;
    size_t rows = 0, codes = 0;  // of the embeddings, and of the codebook
    const float *embed = nullptr, *position = nullptr, *rope = nullptr, *votes = nullptr, *codebook = nullptr;
    const float **norm = nullptr;
    Linear *linear = nullptr;
    std::vector<const float *> norms;
    std::vector<Linear> linears;
    std::vector<std::unique_ptr<float[]>> floats;
    std::vector<std::unique_ptr<int16_t[]>> words;
    void (*answer)(const Model &, Work &, const Inputs &, int, int, bool, const Outputs &) = nullptr;

    std::mutex lock;
    std::vector<std::unique_ptr<Work>> idle;

    std::unique_ptr<Work> work() {
        {
            std::lock_guard<std::mutex> held(lock);
            if (!idle.empty()) {
                auto w = std::move(idle.back());
                idle.pop_back();
                return w;
            }
        }
        return std::make_unique<Work>(*this);
    }

    void give_back(std::unique_ptr<Work> w) {
        std::lock_guard<std::mutex> held(lock);
        idle.push_back(std::move(w));
    }

    // Expected outputs and inputs (a multiple of 16) of the matrix at an index; 0 allows any number.
    void shape_of(int place, size_t &out, size_t &in) const {
        const size_t d = dim, queries = (size_t)heads * head_dim, span = (size_t)kv_heads * head_dim;
        const size_t cells = (size_t)(patch / 8) * (patch / 8), stem = linears[CELL].blocks * (size_t)16;
        const size_t whole[LAYERS][2] = {{0, 2 * CELL_BYTES}, {d, cells * stem}, {d, 0}, {d, d}, {d, 0}, {d, d},
                                         {(size_t)text_vocab, d}, {codes, d}};
        const size_t layer[PER_LAYER][2] = {{queries, d}, {2 * span, d}, {d, queries}, {2 * (size_t)ffn, d}, {d, (size_t)ffn}};
        const size_t *shape = place < LAYERS ? whole[place] : layer[(place - LAYERS) % PER_LAYER];
        out = shape[0], in = shape[1];
    }

    // Whether every matrix and table is set, and every id has an embedding.
    bool whole() const {
        for (size_t i = 0; i < linears.size(); i++) {
            size_t out, in;
            shape_of((int)i, out, in);
            const Linear &l = linears[i];
            if (!l.packed || (out && (size_t)l.out != out) || (in && (size_t)l.in != in)) return false;
        }
        for (const float *n : norms)
            if (!n) return false;
        const int ids[] = {task, think, act};
        for (int id : ids)
            if (id < 0 || (size_t)id >= rows) return false;
        return embed && position && rope && votes && codebook && rows >= text_vocab + codes;
    }

    const float *keep(const float *values, size_t n, size_t room_for) {
        floats.emplace_back(new float[room_for]());
        memcpy(floats.back().get(), values, n * sizeof *values);
        return floats.back().get();
    }
};

size_t up16(size_t n) { return (n + 15) / 16 * 16; }

Work::Work(const Model &m) {
    size_t rows = (size_t)CHUNK * m.prefix, most_out = 0, most_in = 0;
    for (const Linear &l : m.linears) {
        most_out = std::max<size_t>(most_out, l.blocks * 16);
        most_in = std::max<size_t>(most_in, l.in);
    }
    size_t columns = 0;
    for (const Picture &p : m.pictures) columns = std::max<size_t>(columns, p.width / m.patch);
    const size_t each = columns * (m.patch / 8) * (m.patch / 8);
    const size_t strip = std::max<size_t>(std::max<size_t>(STRIP, CHUNK), each);
    const size_t sizes[] = {rows * m.dim, rows * m.heads * m.head_dim, strip * most_out + most_in, (size_t)m.dim, strip,
                            (size_t)m.layers * CHUNK * 2 * m.kv_heads * m.head_dim * m.room};
    size_t sum = 0;
    for (size_t n : sizes) sum += up16(n);
    floats.assign(sum + 16, 0.f);
    words.assign(strip * most_in + 32, 0);
    float *at = floats.data() + (16 - (uintptr_t)floats.data() / 4 % 16) % 16;
    float **const parts[] = {&x, &q, &wide, &narrow, &unit, &cache};
    for (int i = 0; i < 6; i++) *parts[i] = at, at += up16(sizes[i]);
    ints = words.data();
}

float *Work::keys(const Model &m, int layer, int scene) const {
    return cache + ((size_t)layer * CHUNK + scene) * 2 * m.kv_heads * m.head_dim * m.room;
}

float *Work::values(const Model &m, int layer, int scene) const {
    return keys(m, layer, scene) + (size_t)m.kv_heads * m.head_dim * m.room;
}

// add_pairs: sum[o] += w[o][0] * pair[0] + w[o][1] * pair[1] for 16 outputs o.

namespace plain {
constexpr int MANY = 2, WIDE = 1;
#if defined(__x86_64__)  // always has SSE2
struct Sum {
    __m128i lanes[4];
};
inline void add_pairs(Sum &sum, const int16_t *w, int32_t pair) {
    const __m128i a = _mm_set1_epi32(pair), *v = (const __m128i *)w;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sum.lanes[i] = _mm_add_epi32(sum.lanes[i], _mm_madd_epi16(_mm_loadu_si128(v + i), a));
}
#else
struct Sum {
    int32_t lanes[16];
};
inline void add_pairs(Sum &sum, const int16_t *w, int32_t pair) {
    const int32_t a = (int16_t)pair, b = pair >> 16;
    for (int o = 0; o < 16; o++) sum.lanes[o] += a * w[2 * o] + b * w[2 * o + 1];
}
#endif
#include "forward.h"
}  // namespace plain

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
constexpr int MANY = 4, WIDE = 1;
struct Sum {
    __m256i low, high;
};
inline void add_pairs(Sum &sum, const int16_t *w, int32_t pair) {
    const __m256i a = _mm256_set1_epi32(pair);
    const __m256i *v = (const __m256i *)w;
    sum.low = _mm256_add_epi32(sum.low, _mm256_madd_epi16(_mm256_loadu_si256(v), a));
    sum.high = _mm256_add_epi32(sum.high, _mm256_madd_epi16(_mm256_loadu_si256(v + 1), a));
}
#include "forward.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
namespace avx512 {
constexpr int MANY = 8, WIDE = 2;
struct Sum {
    __m512i lanes;
};
inline void add_pairs(Sum &sum, const int16_t *w, int32_t pair) {
    sum.lanes = _mm512_dpwssd_epi32(sum.lanes, _mm512_loadu_si512(w), _mm512_set1_epi32(pair));
}
#include "forward.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

constexpr int SHAPE = 14;       // number of leading ints of Model
constexpr int MOST_CAMERAS = 16;

// Whether the kernels support a shape with pictures of these sizes (height, width).
bool takes(const int32_t *s, const int32_t *pictures, int cameras) {
    const int most = 1 << 20;
    for (int i = 0; i < 10; i++)
        if (s[i] < 1 || s[i] > most) return false;
    const int patch = s[0], dim = s[1], layers = s[2], heads = s[3], kv_heads = s[4], head_dim = s[5], ffn = s[6];
    if (patch % 8 || dim % 16 || head_dim % 16 || ffn % 16 || heads % kv_heads) return false;
    if (layers > 1024 || heads > 1024 || head_dim > 1024 || patch > 1024 || s[8] > LONGEST || s[9] > LONGEST) return false;
    if (cameras < 1 || cameras > MOST_CAMERAS) return false;
    int64_t tokens = 3 + std::max(s[8], s[9]);
    for (int c = 0; c < cameras; c++) {
        const int height = pictures[2 * c], width = pictures[2 * c + 1];
        if (height < 1 || width < 1 || height > most || width > most || height % patch || width % patch) return false;
        tokens += (int64_t)(height / patch) * (width / patch);
    }
    return tokens <= LONGEST;
}

bool choose(Model &m, const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has512 = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (has512 && (!*name || !strcmp(name, "avx512"))) return m.answer = avx512::answer, true;
    if (__builtin_cpu_supports("avx2") && (!*name || !strcmp(name, "avx2"))) return m.answer = avx2::answer, true;
#endif
    if (!*name || !strcmp(name, "plain")) return m.answer = plain::answer, true;
    return false;
}

void pack(Linear &l, Model &m, const int16_t *w) {
    auto packed = std::unique_ptr<int16_t[]>(new int16_t[(size_t)l.blocks * l.in * 16]());
    for (int o = 0; o < l.out; o++)
        for (int i = 0; i < l.in; i++)
            packed[((size_t)(o / 16) * l.in / 2 + i / 2) * 32 + o % 16 * 2 + i % 2] = w[(size_t)o * l.in + i];
    l.packed = packed.get();
    m.words.push_back(std::move(packed));
}

// Returns false if memory ran out.
bool run(Model &m, const Inputs &in, int scenes, int threads, bool reason, const Outputs &out) {
    threads = std::max(1, std::min(threads, scenes));
    const int chunk = std::min(CHUNK, (scenes + threads - 1) / threads);
    std::atomic<int> taken{0};
    std::atomic<bool> whole{true};
    auto job = [&] {
        try {
            auto w = m.work();
            for (int from; (from = taken.fetch_add(chunk)) < scenes;)
                m.answer(m, *w, in, from, std::min(chunk, scenes - from), reason, out);
            m.give_back(std::move(w));
        } catch (const std::bad_alloc &) {
            whole = false;
        }
    };
    std::vector<std::thread> others;
    try {
        while ((int)others.size() + 1 < threads && (int)others.size() + 1 < (scenes + chunk - 1) / chunk)
            others.emplace_back(job);
    } catch (const std::system_error &) {  // no more threads available: the existing ones do all the work
    }
    job();
    for (auto &t : others) t.join();
    return whole;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Whether a shape is supported; engine_new returns null otherwise.
int engine_takes(const int32_t *shape, const int32_t *pictures, int cameras) { return takes(shape, pictures, cameras) ? 1 : 0; }

// shape: the first SHAPE ints of Model in order; pictures (cameras, 2): height and width. instructions: "" (the best),
// "avx512", "avx2" or "plain". Returns null if the CPU lacks them.
void *engine_new(const int32_t *shape, const int32_t *pictures, int cameras, const char *instructions) {
    if (!takes(shape, pictures, cameras)) return nullptr;
    auto m = std::make_unique<Model>();
    int *const to[SHAPE] = {&m->patch,    &m->dim, &m->layers,     &m->heads,    &m->kv_heads,
                            &m->head_dim, &m->ffn, &m->text_vocab, &m->max_text, &m->plan,
                            &m->task,     &m->think, &m->act,      &m->bidirectional};
    for (int i = 0; i < SHAPE; i++) *to[i] = shape[i];
    m->prefix = 3;
    for (int c = 0; c < cameras; c++) {
        m->pictures.push_back({pictures[2 * c], pictures[2 * c + 1]});
        m->prefix += (m->pictures[c].height / m->patch) * (m->pictures[c].width / m->patch);
    }
    m->positions = m->prefix + m->max_text + m->plan;
    m->room = (int)up16(m->prefix + std::max(m->max_text, m->plan));
    m->linears.resize(LAYERS + (size_t)m->layers * PER_LAYER);
    m->norms.resize(2 * (size_t)m->layers + 1);
    m->linear = m->linears.data(), m->norm = m->norms.data();
    if (m->room > LONGEST || !choose(*m, instructions)) return nullptr;
    return m.release();
}

void engine_free(void *engine) { delete static_cast<Model *>(engine); }

// weights (out, in) by rows, `in` a multiple of 16; scale, bias (out). Returns 1 if the model has no such matrix.
int engine_linear(void *engine, int place, int out, int in, float limit, const int16_t *weights, const float *scale,
                   const float *bias) {
    Model &m = *static_cast<Model *>(engine);
    if (place < 0 || (size_t)place >= m.linears.size() || out < 1 || in < 1 || in % 16) return 1;
    if (place == CODES) m.codes = out;
    Linear &l = m.linear[place];
    l.in = in, l.out = out, l.blocks = (out + 15) / 16, l.limit = limit;
    pack(l, m, weights);
    l.scale = m.keep(scale, out, up16(out));
    l.bias = m.keep(bias, out, up16(out));
    size_t rows, columns;
    m.shape_of(place, rows, columns);
    return (rows && rows != (size_t)out) || (columns && columns != (size_t)in);
}

// place 0: embed, 1: position, 2: rope, 3: votes (VOTE_SPEEDS, codes, codes), 4: codebook (2, codes); from 5 on, the
// norms in order. Returns 1 if the model has no such table, or not of this size; call it after setting the matrices.
int engine_floats(void *engine, int place, const float *values, int64_t n) {
    Model &m = *static_cast<Model *>(engine);
    if (place < 0 || (size_t)place >= 5 + m.norms.size() || n < 1) return 1;
    const size_t d = m.dim, count = n;
    const size_t sizes[] = {0, (m.prefix - 3) * d, (size_t)m.positions * m.head_dim, VOTE_SPEEDS * m.codes * m.codes,
                            2 * m.codes, d};
    if (place ? count != sizes[std::min(place, 5)] : count % d != 0) return 1;
    if (place == 0) m.rows = count / d;
    const float *kept = m.keep(values, n, up16(n));
    const float **const to[] = {&m.embed, &m.position, &m.rope, &m.votes, &m.codebook};
    (place < 5 ? *to[place] : m.norm[place - 5]) = kept;
    return 0;
}

// frames: per camera (scenes, 2, H, W, 3); ego and route (scenes, inputs of their layers), speed (scenes) m/s; out
// (scenes, plan) or (scenes, max_text), zeroed; controls (scenes, plan, 2). Returns 0, 1 if memory ran out, 2 if the
// model is incomplete.
int engine_run(void *engine, const uint8_t *const *frames, const float *ego, const float *route, const float *speed,
               int scenes, int threads, int reason, int32_t *out, float *controls) {
    if (!static_cast<Model *>(engine)->whole()) return 2;
    return run(*static_cast<Model *>(engine), {frames, ego, route, speed}, scenes, threads, reason != 0, {out, controls})
               ? 0
               : 1;
}

// Digest of the sources from which this library was built.
const char *engine_source() { return ENGINE_SOURCE; }
}
#pragma GCC visibility pop
