// A program of rules in, blocks of samples in, firings out; state is carried from block to block (see program.py).
// A value is a double, NaN where it is not known; a condition is 0, 1 or NaN.

#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace watch {

constexpr int BLOCK = 64;           // samples that go through the program together: all slots stay in the cache
constexpr double ROUNDING = 1e-6;   // s: clocks on a decimal grid carry rounding
constexpr double UNKNOWN = std::numeric_limits<double>::quiet_NaN();
constexpr double INF = std::numeric_limits<double>::infinity();

// The order of OPS in program.py.
enum Op : int32_t {
    NUMBER, SIGNAL, FLAG, ADD, SUBTRACT, MULTIPLY, DIVIDE, ABS, MINUS, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, NOT, AND,
    OR, FOR, RISING, FALLING, UNTIL, MAX, MIN, MEAN, DELTA, COUNT
};

struct Entry {
    double t, x, weight;
    double fold, weights;  // of this entry and all younger ones of the old part
};

// The samples of the last `seconds`, and what they come to, in amortised constant time and without drift: the old part
// keeps folds from each entry to its youngest, the new part one running fold; when the old part is used up, the new
// part becomes it ("two stacks").
class Window {
  public:
    void open(Op op, double seconds, size_t most) {
        this->op = op, this->seconds = seconds, this->most = most;
        ring.resize(16 < most ? 16 : most);
        clear();
    }
    void clear() { head = count = old = 0, fresh(); }

    void push(double t, double x, double weight) {
        if (count == most) drop();
        if (count == ring.size()) grow();
        Entry &e = at(count++);
        e = {t, x, weight, 0, 0};
        fold = joined(fold, part(e)), weights += weight;
    }
    void forget(double now) {
        while (count && ring[head].t < now - seconds - ROUNDING) drop();
    }
    double value(double now) const {
        if (op == COUNT) return double(count);
        if (!count) return UNKNOWN;
        if (op == DELTA) return now - ring[head].x;
        double all = old ? joined(ring[head].fold, fold) : fold;
        return op == MEAN ? all / ((old ? ring[head].weights : 0) + weights) : all;
    }

  private:
    Op op = MAX;
    double seconds = 0, fold = 0, weights = 0;
    size_t most = 0, head = 0, count = 0, old = 0;
    std::vector<Entry> ring;

    Entry &at(size_t i) {
        size_t j = head + i;
        return ring[j < ring.size() ? j : j - ring.size()];
    }
    void fresh() { fold = op == MAX ? -INF : op == MIN ? INF : 0, weights = 0; }
    double part(const Entry &e) const { return op == MEAN ? e.x * e.weight : e.x; }
    double joined(double a, double b) const {
        return op == MAX ? (a > b ? a : b) : op == MIN ? (a < b ? a : b) : a + b;
    }
    void drop() {
        if (!old) {
            fresh();
            for (size_t i = count; i-- > 0;) {
                Entry &e = at(i);
                fold = joined(part(e), fold), weights = e.weight + weights;
                e.fold = fold, e.weights = weights;
            }
            old = count;
            fresh();
        }
        head = head + 1 < ring.size() ? head + 1 : 0;
        --count, --old;
    }
    void grow() {
        std::vector<Entry> wider(ring.size() * 2 < most ? ring.size() * 2 : most);
        for (size_t i = 0; i < count; ++i) wider[i] = at(i);
        ring.swap(wider), head = 0;
    }
};

struct Step {
    Op op;
    int32_t a, b;  // slots; of a signal, its row
    double value;  // a number, or seconds
};

struct Memory {
    bool before = false;
    double since = 0;
    Window window;
};

struct Fired {
    int32_t rule, sample;
};

class Watch {
  public:
    std::vector<Fired> fired;

    Watch(const Step *steps, int n, const int32_t *rules, const double *cooldown, int rules_n, double max_hz)
        : program(steps, steps + n), memory(n), slots(size_t(n) * BLOCK), rule_slot(rules, rules + rules_n),
          cooldown(cooldown, cooldown + rules_n), held(rules_n), last(rules_n) {
        for (int i = 0; i < n; ++i) {
            const Step &s = program[i];
            if (s.op >= MAX) memory[i].window.open(s.op, s.value, size_t(std::llround(s.value * max_hz)) + 1);
            if (s.op == NUMBER)
                for (int k = 0; k < BLOCK; ++k) slots[size_t(i) * BLOCK + k] = s.value;
        }
        reset();
    }

    void reset() {
        for (Memory &m : memory) m.before = false, m.window.clear();
        held.assign(held.size(), 0), last.assign(last.size(), -INF), now = -INF;
    }

    // t (n,), values (signals, n), truth (rules, n) or null; fired is emptied first.
    void run(const double *t, const double *values, int64_t n, uint8_t *truth) {
        fired.clear();
        for (int64_t first = 0; first < n; first += BLOCK) {
            int many = int(n - first < BLOCK ? n - first : BLOCK);
            for (size_t i = 0; i < program.size(); ++i) step(i, t + first, values + first, n, many);
            judge(t + first, first, many, truth ? truth + first : nullptr, n);
            now = t[first + many - 1];
        }
    }

  private:
    std::vector<Step> program;
    std::vector<Memory> memory;
    std::vector<double> slots;
    std::vector<int32_t> rule_slot;
    std::vector<double> cooldown;
    std::vector<uint8_t> held;
    std::vector<double> last;
    double now = -INF;  // time of the sample before this block

    void step(size_t i, const double *t, const double *values, int64_t stride, int n);
    void judge(const double *t, int64_t first, int n, uint8_t *truth, int64_t stride);
};

inline void Watch::judge(const double *t, int64_t first, int n, uint8_t *truth, int64_t stride) {
    for (size_t r = 0; r < rule_slot.size(); ++r) {
        const double *v = &slots[size_t(rule_slot[r]) * BLOCK];
        uint8_t before = held[r];
        for (int k = 0; k < n; ++k) {
            bool true_now = v[k] == 1;
            if (true_now && !before && t[k] - last[r] >= cooldown[r]) {
                last[r] = t[k];
                fired.push_back({int32_t(r), int32_t(first + k)});
            }
            before = true_now;
            if (truth) truth[int64_t(r) * stride + k] = before;
        }
        held[r] = before;
    }
}

inline void Watch::step(size_t i, const double *t, const double *values, int64_t stride, int n) {
    const Step &s = program[i];
    Memory &m = memory[i];
    double *__restrict out = &slots[i * BLOCK];
    const double *a = s.op > FLAG ? &slots[size_t(s.a) * BLOCK] : values + s.a * stride;
    const double *b = &slots[size_t(s.b) * BLOCK];
    switch (s.op) {
#define EACH(expression) \
    for (int k = 0; k < n; ++k) out[k] = (expression); \
    break
    case NUMBER: break;
    case SIGNAL: EACH(a[k]);
    case FLAG: EACH(a[k] == 0 ? 0 : a[k] - a[k] + 1);
    case ADD: EACH(a[k] + b[k]);
    case SUBTRACT: EACH(a[k] - b[k]);
    case MULTIPLY: EACH(a[k] * b[k]);
    case DIVIDE: EACH(a[k] / b[k]);
    case ABS: EACH(std::fabs(a[k]));
    case MINUS: EACH(-a[k]);
    case LESS: EACH(a[k] < b[k] ? 1 : a[k] >= b[k] ? 0 : UNKNOWN);
    case LESS_EQUAL: EACH(a[k] <= b[k] ? 1 : a[k] > b[k] ? 0 : UNKNOWN);
    case GREATER: EACH(a[k] > b[k] ? 1 : a[k] <= b[k] ? 0 : UNKNOWN);
    case GREATER_EQUAL: EACH(a[k] >= b[k] ? 1 : a[k] < b[k] ? 0 : UNKNOWN);
    case NOT: EACH(1 - a[k]);
    case AND: EACH(a[k] == 0 || b[k] == 0 ? 0 : a[k] * b[k]);
    case OR: EACH(a[k] == 1 || b[k] == 1 ? 1 : a[k] + b[k]);
#undef EACH
    case FOR:
        for (int k = 0; k < n; ++k) {
            if (a[k] == 1 && !m.before) m.since = t[k];
            m.before = a[k] == 1;
            out[k] = m.before ? t[k] - m.since >= s.value - ROUNDING : a[k];
        }
        break;
    case RISING:
        for (int k = 0; k < n; ++k) {
            out[k] = a[k] == 1 ? !m.before : a[k];
            m.before = a[k] == 1;
        }
        break;
    case FALLING:
        for (int k = 0; k < n; ++k) {
            out[k] = a[k] == 0 ? m.before : a[k] - a[k];
            m.before = a[k] == 1;
        }
        break;
    case UNTIL:
        for (int k = 0; k < n; ++k) {
            m.before = b[k] != 1 && (m.before || a[k] == 1);
            out[k] = m.before ? 1 : b[k] == 1 ? 0 : a[k];
        }
        break;
    case COUNT:
        for (int k = 0; k < n; ++k) {
            if (a[k] == 1 && !m.before) m.window.push(t[k], 0, 0);
            m.before = a[k] == 1;
            m.window.forget(t[k]);
            out[k] = m.window.value(0);
        }
        break;
    default:
        for (int k = 0; k < n; ++k) {
            double since = t[k] - (k ? t[k - 1] : now);
            m.window.forget(t[k]);
            if (!std::isnan(a[k])) m.window.push(t[k], a[k], since < s.value ? since : now == -INF && !k ? 0 : s.value);
            out[k] = s.op == DELTA && std::isnan(a[k]) ? UNKNOWN : m.window.value(a[k]);
        }
    }
}

}  // namespace watch
