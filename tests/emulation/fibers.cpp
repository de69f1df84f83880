// Threads of a block as fibers, blocks of a grid over OpenMP threads. A fiber never changes its OS thread. A thread that
// ends without having waited hands its stack to the next one, so a kernel without barriers runs as a plain loop.
//   OHT_EMU_ORDER  0 first to last, 1 last to first, 2 random, 3 the highest thread that can run, always
//   OHT_EMU_SEED   of order 2
//   OHT_EMU_SKIP_BARRIER  leaves a barrier out: skipped()
//   OHT_EMU_THREADS  OS threads; default: those of OpenMP
// Compile this file without -fsanitize=thread, but with OHT_EMU_TSAN where the kernels have it: each CUDA thread is then a
// fiber of the thread sanitizer, and only barriers, __syncwarp and the ends of a launch order memory.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <omp.h>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

#include "emulation/emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
extern "C" void __sanitizer_start_switch_fiber(void **, const void *, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
#endif
#if defined(OHT_EMU_TSAN)
extern "C" void *__tsan_get_current_fiber(void);
extern "C" void *__tsan_create_fiber(unsigned);
extern "C" void __tsan_switch_to_fiber(void *, unsigned);
extern "C" void __tsan_acquire(void *);
extern "C" void __tsan_release(void *);
extern "C" void AnnotateIgnoreReadsBegin(const char *, int);
extern "C" void AnnotateIgnoreReadsEnd(const char *, int);
extern "C" void AnnotateIgnoreWritesBegin(const char *, int);
extern "C" void AnnotateIgnoreWritesEnd(const char *, int);
// Around what the emulator itself does, calls into the C library included.
#define QUIET_ON()                                                                                           \
    (AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__))
#define QUIET_OFF() (AnnotateIgnoreReadsEnd(__FILE__, __LINE__), AnnotateIgnoreWritesEnd(__FILE__, __LINE__))
#define ACQUIRE(clock) __tsan_acquire(clock)
#define RELEASE(clock) __tsan_release(clock)
#else
#define QUIET_ON() ((void)0)
#define QUIET_OFF() ((void)0)
#define ACQUIRE(clock) ((void)0)
#define RELEASE(clock) ((void)0)
#endif

namespace oht_emu {
__thread Current cur;

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulation: ");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    fflush(stderr);
    abort();
}

int option(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

enum Order { FORWARD, REVERSE, RANDOM, SKEW };
static const int order = option("OHT_EMU_ORDER", FORWARD);
static const unsigned seed = (unsigned)option("OHT_EMU_SEED", 1);
static const int threads = option("OHT_EMU_THREADS", 0);

// ---- fibers ----
enum : size_t { PAGE = 4096 };
#if defined(EMU_ASAN) || defined(OHT_EMU_TSAN)
static const size_t STACK = 256 * 1024;
#else
static const size_t STACK = 128 * 1024;
#endif
extern "C" void oht_emu_switch(void **save, void *to) __attribute__((visibility("hidden")));
#if defined(__x86_64__)
// Saves the registers that a call preserves, changes stacks, restores them. ucontext would make a system call each time.
asm(R"(
.text
.globl oht_emu_switch
.hidden oht_emu_switch
.type oht_emu_switch,@function
oht_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size oht_emu_switch,.-oht_emu_switch
)");
#else
#error "the emulation of CUDA needs a context switch for this processor"
#endif

struct Fiber {
    void *sp = nullptr;
    char *stack = nullptr;
    void *fake = nullptr;
};
enum State : uint8_t { READY_NEW, READY, AT_BLOCK, AT_WARP, DONE };
struct Warp {
    unsigned arrived = 0, mask = 0;
    warp_fn fn = nullptr;
    void *record[32];
    char clock;
};
struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};
struct Copies { // of one thread: groups that were committed, and the open one
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Worker { // one per OS thread
    Fiber main;
    std::vector<Fiber *> pool;
    const std::function<void()> *body = nullptr;
    const char *name = "";
    dim3 bdim, gdim;
    uint3 bid;
    int n = 0, live = 0, me = -1;
    Fiber *self = nullptr;
    std::vector<State> state;
    std::vector<Fiber *> fiber;
    std::vector<int> line;
    std::vector<Warp> warp;
    std::vector<Copies> copies;
    std::vector<int> ready; // from head on
    size_t head = 0;
    int at_block = 0, barrier_line = 0;
    std::vector<int> barriers; // lines that this launch has met
    char barrier_clock = 0, end_clock = 0, start_clock = 0;
    std::vector<std::pair<const void *, void *>> shared;
    void *dynamic = nullptr;
    size_t dynamic_bytes = 0;
    uint64_t random = 88172645463325252ull;
    void *tsan_main = nullptr; // the sanitizer's fibers: one a thread, each with a stack of its own, for good
    std::vector<void *> tsan_fiber;
    std::vector<Fiber *> tsan_stack;
    unsigned draw() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (unsigned)(random >> 32);
    }
};
static thread_local Worker *here;
static void fiber_entry();

static Fiber *fiber_new([[maybe_unused]] Worker *w, [[maybe_unused]] int thread) {
#if defined(OHT_EMU_TSAN)
    if (w->tsan_stack[thread]) return w->tsan_stack[thread];
#else
    if (!w->pool.empty()) {
        Fiber *f = w->pool.back();
        w->pool.pop_back();
        return f;
    }
#endif
    Fiber *f = new Fiber;
    f->stack = (char *)mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED) fail("no memory for a thread's stack");
    mprotect(f->stack, PAGE, PROT_NONE);
    void **sp = (void **)(f->stack + STACK + PAGE);
    *--sp = nullptr;
    *--sp = (void *)fiber_entry;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    f->sp = sp;
#if defined(OHT_EMU_TSAN)
    w->tsan_stack[thread] = f;
#endif
    return f;
}

static void give_back([[maybe_unused]] Worker *w, [[maybe_unused]] Fiber *f) {
#if !defined(OHT_EMU_TSAN)
    w->pool.push_back(f);
#endif
}

static void enter(Worker *w, Fiber *from, Fiber *to, [[maybe_unused]] int thread) {
    w->self = to;
#ifdef EMU_ASAN
    if (to == &w->main)
        __sanitizer_start_switch_fiber(&from->fake, w->main.stack, (size_t)w->main.fake);
    else
        __sanitizer_start_switch_fiber(&from->fake, to->stack + PAGE, STACK);
#endif
#ifdef OHT_EMU_TSAN
    __tsan_switch_to_fiber(thread < 0 ? w->tsan_main : w->tsan_fiber[thread], 1);
#endif
    oht_emu_switch(&from->sp, to->sp);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from == &w->main ? nullptr : from->fake, nullptr, nullptr);
#endif
}

static void set_current(Worker *w, int t) {
    w->me = t;
    cur.bid = w->bid;
    cur.bdim = make_uint3(w->bdim.x, w->bdim.y, w->bdim.z);
    cur.gdim = make_uint3(w->gdim.x, w->gdim.y, w->gdim.z);
    cur.lane = t & 31;
    cur.tid.x = (unsigned)t % w->bdim.x;
    cur.tid.y = (unsigned)t / w->bdim.x % w->bdim.y;
    cur.tid.z = (unsigned)t / (w->bdim.x * w->bdim.y);
}

// The next thread that can run, or -1.
static int pick(Worker *w) {
    size_t n = w->ready.size() - w->head;
    if (!n) return -1;
    size_t k = w->head;
    if (order == RANDOM) k += w->draw() % n;
    for (size_t i = w->head; order == SKEW && i < w->ready.size(); i++)
        if (w->ready[i] > w->ready[k]) k = i;
    int t = w->ready[k];
    w->ready[k] = w->ready[w->head++];
    if (w->head == w->ready.size()) {
        w->ready.clear();
        w->head = 0;
    }
    return t;
}

[[noreturn]] static void stuck(Worker *w) {
    for (int t = 0; t < w->n; t++) {
        if (w->state[t] != AT_BLOCK && w->state[t] != AT_WARP) continue;
        fprintf(stderr, "  thread %d waits at %s (line %d)\n", t,
                w->state[t] == AT_BLOCK ? "__syncthreads" : "a warp primitive", w->line[t]);
        t += 15;
    }
    fail("%s block (%u,%u,%u): threads wait for each other for ever (divergent barrier)", w->name, w->bid.x,
         w->bid.y, w->bid.z);
}

static void release_block(Worker *w) {
    w->at_block = 0;
    for (int i = 0; i < w->n; i++) {
        int t = order == REVERSE ? w->n - 1 - i : i;
        if (w->state[t] != AT_BLOCK) continue;
        w->state[t] = READY;
        w->ready.push_back(t);
    }
}

static void resume(Worker *w, Fiber *from, int t) {
    if (w->state[t] == READY_NEW) w->fiber[t] = fiber_new(w, t);
    set_current(w, t);
    enter(w, from, w->fiber[t], t);
}

// The current thread cannot go on.
static void wait_here(Worker *w) {
    int me = w->me, t = pick(w);
    Fiber *f = w->fiber[me];
    if (t < 0) stuck(w);
    if (t == me)
        set_current(w, me); // the last to arrive may go on itself
    else
        resume(w, f, t);
}

static void fiber_entry() {
    Worker *w = here;
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!w->main.stack) {
        w->main.stack = (char *)bottom;
        w->main.fake = (void *)size;
    }
#endif
    for (;;) {
        Fiber *me = w->self;
        int t = w->me;
        w->fiber[t] = me;
        ACQUIRE(&w->start_clock);
        (*w->body)();
        QUIET_ON();
        t = w->me;
        RELEASE(&w->end_clock);
        w->state[t] = DONE;
        w->live--;
        if (!w->copies[t].open.empty() || !w->copies[t].groups.empty())
            fail("%s block (%u,%u,%u): thread %d returns before its asynchronous copies have arrived",
                 w->name, w->bid.x, w->bid.y, w->bid.z, t);
        if (w->at_block)
            fail("%s block (%u,%u,%u): thread %d returns while %d others wait at __syncthreads (line %d)",
                 w->name, w->bid.x, w->bid.y, w->bid.z, t, w->at_block, w->barrier_line);
        int next = pick(w);
        if (next < 0) {
            if (w->live) stuck(w);
            give_back(w, me);
            QUIET_OFF();
            enter(w, me, &w->main, -1);
            continue;
        }
#if !defined(OHT_EMU_TSAN)
        if (w->state[next] == READY_NEW) { // the same stack, no switch
            set_current(w, next);
            QUIET_OFF();
            continue;
        }
#endif
        give_back(w, me);
#if defined(OHT_EMU_TSAN)
        if (w->state[next] == READY_NEW) {
            w->fiber[next] = fiber_new(w, next);
            w->state[next] = READY;
        }
#endif
        QUIET_OFF();
        resume(w, me, next);
    }
}

// ---- what threads wait for ----
// OHT_EMU_SKIP_BARRIER=NAME:n, to see that missing barriers are found: the n-th different __syncthreads that a kernel of that
// name meets is none.
static bool skipped(Worker *w, int line) {
    static const char *const text = getenv("OHT_EMU_SKIP_BARRIER"), *const colon = text ? strrchr(text, ':') : nullptr;
    static const std::string name = colon ? std::string(text, colon) : std::string();
    if (!colon || !strstr(w->name, name.c_str())) return false;
    auto at = std::find(w->barriers.begin(), w->barriers.end(), line);
    if (at == w->barriers.end()) at = w->barriers.insert(at, line);
    return at - w->barriers.begin() == atoi(colon + 1);
}

void sync_block(int line) {
    QUIET_ON();
    Worker *w = here;
    if (skipped(w, line)) {
        QUIET_OFF();
        return;
    }
    int me = w->me;
    RELEASE(&w->barrier_clock);
    if (w->at_block && w->barrier_line != line)
        fail("%s block (%u,%u,%u) thread %d: __syncthreads at line %d while others wait at line %d", w->name,
             w->bid.x, w->bid.y, w->bid.z, me, line, w->barrier_line);
    w->barrier_line = line;
    w->line[me] = line;
    w->state[me] = AT_BLOCK;
    if (++w->at_block == w->live) {
        // A thread that has returned counts as arrived on a GPU, but no kernel of ours means it to.
        if (w->live < w->n)
            fail("%s block (%u,%u,%u): __syncthreads at line %d after threads have returned", w->name,
                 w->bid.x, w->bid.y, w->bid.z, line);
        release_block(w);
    }
    wait_here(w);
    ACQUIRE(&w->barrier_clock);
    QUIET_OFF();
}

void warp_collective(unsigned mask, warp_fn fn, void *record, [[maybe_unused]] bool orders_memory) {
    QUIET_ON();
    Worker *w = here;
    int me = w->me, lane = me & 31, base = me & ~31;
    Warp &p = w->warp[me >> 5];
    if (!(mask >> lane & 1))
        fail("%s: lane %d calls a warp primitive whose mask %08x lacks it", w->name, lane, mask);
    if (p.arrived && (p.mask != mask || p.fn != fn))
        fail("%s block (%u,%u,%u) warp %d: lanes meet in different warp primitives or masks (%08x, %08x)",
             w->name, w->bid.x, w->bid.y, w->bid.z, me >> 5, mask, p.mask);
    if (orders_memory) RELEASE(&p.clock);
    p.mask = mask;
    p.fn = fn;
    p.record[lane] = record;
    p.arrived |= 1u << lane;
    if (p.arrived != mask) {
        w->state[me] = AT_WARP;
        w->line[me] = 0;
        wait_here(w);
    } else {
        fn(p.record, mask);
        p.arrived = 0;
        for (int i = 0; i < 32; i++) {
            int l = order == REVERSE ? 31 - i : i;
            if (l == lane || !(mask >> l & 1)) continue;
            w->state[base + l] = READY;
            w->ready.push_back(base + l);
        }
    }
    if (orders_memory) ACQUIRE(&p.clock);
    QUIET_OFF();
}

// ---- shared memory, asynchronous copies ----
void *poisoned(size_t bytes) {
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes ? bytes : 1)) fail("no memory (%zu bytes)", bytes);
    memset(p, 0xff, bytes); // NaN in every floating-point format
    return p;
}

void *shared_static(const void *key, size_t bytes) {
    Worker *w = here;
    for (auto &s : w->shared)
        if (s.first == key) return s.second;
    QUIET_ON();
    void *p = poisoned(bytes); // of exactly this size: an address sanitizer sees what runs over
    w->shared.push_back({key, p});
    QUIET_OFF();
    return p;
}

void *shared_dynamic() {
    return here->dynamic;
}

void copy_async(void *to, const void *from, size_t bytes) {
    memset(to, 0xff, bytes); // the copy may arrive from now on: the sanitizer sees a write here and at the wait
    QUIET_ON();
    here->copies[here->me].open.push_back({to, from, bytes});
    QUIET_OFF();
}

void copy_commit() {
    QUIET_ON();
    Copies &c = here->copies[here->me];
    c.groups.push_back(std::move(c.open));
    c.open.clear();
    QUIET_OFF();
}

void copy_wait(int newest) {
    Copies &c = here->copies[here->me];
    while (c.groups.size() > (size_t)newest) {
        for (const Copy &x : c.groups.front()) {
            if (x.from)
                memcpy(x.to, x.from, x.bytes);
            else
                memset(x.to, 0, x.bytes);
        }
        QUIET_ON();
        c.groups.pop_front();
        QUIET_OFF();
    }
}

// ---- blocks and grids ----
static void run_block(Worker *w, uint3 bid) {
    QUIET_ON();
    w->bid = bid;
    w->live = w->n;
    w->at_block = 0;
    w->ready.clear();
    w->head = 0;
    std::fill(w->state.begin(), w->state.end(), READY_NEW);
    for (auto &p : w->warp) p.arrived = 0;
    for (int i = 0; i < w->n; i++) w->ready.push_back(order == REVERSE ? w->n - 1 - i : i);
    w->dynamic = w->dynamic_bytes ? poisoned(w->dynamic_bytes) : nullptr;
#ifdef OHT_EMU_TSAN
    w->tsan_main = __tsan_get_current_fiber();
    while (w->tsan_fiber.size() < (size_t)w->n) w->tsan_fiber.push_back(__tsan_create_fiber(0));
    w->tsan_stack.resize(w->tsan_fiber.size());
    __tsan_release(&w->start_clock);
#endif
    resume(w, &w->main, pick(w));
    for (auto &s : w->shared) free(s.second);
    w->shared.clear();
    free(w->dynamic);
    QUIET_OFF();
}

void run_grid(const char *name, dim3 grid, dim3 block, size_t smem, const std::function<void()> &body) {
    long blocks = (long)grid.x * grid.y * grid.z;
    int n = (int)(block.x * block.y * block.z);
#if defined(OHT_EMU_TSAN)
    const int team = 1;
#else
    const int team = (int)std::min<long>(blocks, threads ? threads : omp_get_max_threads());
#endif
#pragma omp parallel num_threads(team) if (team > 1)
    {
        if (!here) here = new Worker; // one per OS thread, for good
        Worker *w = here;
        w->body = &body;
        w->name = name;
        w->barriers.clear();
        w->bdim = block;
        w->gdim = grid;
        w->n = n;
        w->dynamic_bytes = smem;
        w->random ^= (uint64_t)seed * 0x9E3779B97F4A7C15ull;
        if (!w->random) w->random = 1;
        w->state.resize((size_t)n);
        w->fiber.resize((size_t)n);
        w->line.resize((size_t)n);
        w->copies.resize((size_t)n);
        w->warp.resize((size_t)(n + 31) / 32);
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < blocks; i++) {
            long k = order == REVERSE ? blocks - 1 - i : i;
            run_block(w, make_uint3((unsigned)(k % grid.x), (unsigned)(k / grid.x % grid.y),
                                    (unsigned)(k / ((long)grid.x * grid.y))));
        }
        ACQUIRE(&w->end_clock);
    }
}
} // namespace oht_emu
