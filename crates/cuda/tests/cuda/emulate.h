// An emulated device for tests: the text of kernels/*.cu compiled as ordinary C++, run block by block on one thread of the host.
//
// It says whether the kernels compute what they should. It says nothing about speed, about the driver, about what a real
// device does with memory orders, or whether ptxas takes the PTX; see docs/cuda.md.
//
// Each thread of a block is a fiber. Fibers are switched only where threads of a device meet: at __syncthreads, and where the
// 32 lanes of a warp do something together (shuffles, ldmatrix, mma). What is missing is made visible where that is cheap:
// lanes that meet at different instructions end the launch with an error, so does a barrier that not all threads reach;
// shared memory starts as NaN; cp.async copies only when it is waited for; threads and blocks can run in reverse order,
// which changes results where a barrier is missing.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__

// A kernel is a C function that takes the address of its parameters; its parameters' size is told beside it.
#define KERNEL(name, Args, threads)                                                       \
    static void name##_body(const Args& a);                                               \
    extern "C" {                                                                          \
    extern const unsigned name##_size = sizeof(Args), name##_threads = threads;           \
    void name##_run(const void* a) { name##_body(*static_cast<const Args*>(a)); }         \
    }                                                                                     \
    static void name##_body(const Args& a)
#define DYNAMIC_SHARED(Type, name) Type* name = reinterpret_cast<Type*>(emulate::shared)

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
static inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
static inline u32 __float_as_uint(float v) {
    u32 r;
    memcpy(&r, &v, 4);
    return r;
}
static inline float __uint_as_float(u32 v) {
    float r;
    memcpy(&r, &v, 4);
    return r;
}
static inline int __double2loint(double v) {
    u64 r;
    memcpy(&r, &v, 8);
    return int(u32(r));
}
static inline int __double2hiint(double v) {
    u64 r;
    memcpy(&r, &v, 8);
    return int(u32(r >> 32));
}
static inline double __hiloint2double(int high, int low) {
    const u64 r = u64(u32(high)) << 32 | u32(low);
    double v;
    memcpy(&v, &r, 8);
    return v;
}

struct Dimensions {
    u32 x, y, z;
};
static Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace emulate {

enum { MOST_THREADS = 1024, STACK = 256 << 10, COPIES = 512 };

struct Copy {
    void* to;
    const void* from;
    u32 group;
    bool valid;
};

struct Fiber {
    ucontext_t begin;
    jmp_buf at;
    bool started, done;
    Copy copies[COPIES];
    u32 waiting, groups;  // copies under way; groups closed so far
};

// 32 lanes that do something together: what each brings, and how often they have met.
struct Meeting {
    const char* what;
    void* brought[32];
    u32 arrived, met;
};

static Fiber* fibers;
static Meeting warps[MOST_THREADS / 32];
static u32 threads, current, alive, at_barrier, barriers, idle;
static bool reversed;
static unsigned char* shared;
static jmp_buf host;
static void (*body)(const void*);
static const void* parameters;
static char failure[256];

[[noreturn]] static void fail(const char* why) {
    snprintf(failure, sizeof failure, "block (%u, %u) thread %u: %s", blockIdx.x, blockIdx.y, current, why);
    _longjmp(host, 1);
}

__attribute__((noinline)) static void enter(u32 next) {
    const u32 from = current;
    current = next;
    threadIdx = {next, 0, 0};
    if (_setjmp(fibers[from].at)) return;
    if (fibers[next].started) _longjmp(fibers[next].at, 1);
    fibers[next].started = true;
    setcontext(&fibers[next].begin);
}

// Let another thread run.
static void yield() {
    u32 next = current;
    do next = (next + (reversed ? threads - 1 : 1)) % threads;
    while (fibers[next].done);
    if (++idle > 8 * threads + 64) fail("threads wait for each other");
    if (next != current) enter(next);
}

// A fiber runs one thread after the other: of this block, of the next.
static void fiber() {
    for (;;) {
        body(parameters);
        fibers[current].done = true;
        idle = 0;
        if (--alive == 0) {
            if (!_setjmp(fibers[current].at)) _longjmp(host, 2);
        } else {
            u32 next = current;
            do next = (next + (reversed ? threads - 1 : 1)) % threads;
            while (fibers[next].done);
            enter(next);
        }
    }
}

template <class F> static void together(const char* what, void* mine, F finish) {
    Meeting& w = warps[current / 32];
    if (w.arrived == 0) w.what = what;
    if (w.what != what) fail("lanes of a warp meet at different instructions");
    w.brought[current % 32] = mine;
    if (++w.arrived == 32) {
        finish(w.brought);
        w.arrived = 0;
        w.met++;
        idle = 0;
        return;
    }
    const u32 before = w.met;
    idle = 0;
    while (w.met == before) yield();
}

static void run_block() {
    memset(warps, 0, sizeof warps);
    at_barrier = idle = 0;
    alive = threads;
    for (u32 i = 0; i < threads; i++) {
        fibers[i].done = false;
        fibers[i].waiting = fibers[i].groups = 0;
    }
    const int back = _setjmp(host);
    if (back == 0) {
        const u32 first = reversed ? threads - 1 : 0;
        current = first;
        threadIdx = {first, 0, 0};
        if (fibers[first].started) _longjmp(fibers[first].at, 1);
        fibers[first].started = true;
        setcontext(&fibers[first].begin);
    }
    if (back == 1) {  // the fibers stand anywhere: they begin anew
        for (u32 i = 0; i < MOST_THREADS; i++) fibers[i].started = false;
    }
}

static void prepare() {
    if (fibers) return;
    fibers = static_cast<Fiber*>(calloc(MOST_THREADS, sizeof(Fiber)));
    char* stacks = static_cast<char*>(mmap(nullptr, u64(MOST_THREADS) * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (u32 i = 0; i < MOST_THREADS; i++) {
        getcontext(&fibers[i].begin);
        fibers[i].begin.uc_stack.ss_sp = stacks + u64(i) * STACK;
        fibers[i].begin.uc_stack.ss_size = STACK;
        fibers[i].begin.uc_link = nullptr;
        makecontext(&fibers[i].begin, fiber, 0);
    }
}

}  // namespace emulate

// Run a kernel over a grid; returns what went wrong, or null.
extern "C" const char* emulate_launch(void (*kernel)(const void*), const void* parameters, const u32* grid, u32 threads, u32 shared, int reversed) {
    using namespace emulate;
    prepare();
    failure[0] = 0;
    body = kernel;
    emulate::parameters = parameters;
    emulate::threads = threads;
    emulate::reversed = reversed;
    emulate::shared = static_cast<unsigned char*>(aligned_alloc(256, (shared + 511) / 256 * 256));
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    const u64 blocks = u64(grid[0]) * grid[1] * grid[2];
    for (u64 i = 0; i < blocks && !failure[0]; i++) {
        const u64 b = reversed ? blocks - 1 - i : i;
        blockIdx = {u32(b % grid[0]), u32(b / grid[0] % grid[1]), u32(b / grid[0] / grid[1])};
        memset(emulate::shared, 0xff, shared);
        memset(emulate::shared + shared, 0x5a, 256);
        run_block();
        for (u32 k = 0; k < 256 && !failure[0]; k++) {
            if (emulate::shared[shared + k] != 0x5a) snprintf(failure, sizeof failure, "block (%u, %u) writes beyond its shared memory", blockIdx.x, blockIdx.y);
        }
    }
    free(emulate::shared);
    return failure[0] ? failure : nullptr;
}

static inline void __syncthreads() {
    using namespace emulate;
    if (alive != threads) fail("a barrier that not all threads reach");
    idle = 0;
    if (++at_barrier == threads) {
        at_barrier = 0;
        barriers++;
        return;
    }
    const u32 before = barriers;
    while (barriers == before) yield();
}

static inline void __syncwarp() {
    emulate::together("__syncwarp", nullptr, [](void**) {});
}

// Shuffles: lane i gets what `source(i)` brings; its own where that lane is none of the 32.
template <class V> static V shuffled(const char* what, V v, u32 source) {
    struct Lane {
        V in, out;
        u32 source;
    } lane = {v, v, source};
    emulate::together(what, &lane, [](void** all) {
        for (u32 i = 0; i < 32; i++) {
            Lane* l = static_cast<Lane*>(all[i]);
            if (l->source < 32) l->out = static_cast<Lane*>(all[l->source])->in;
        }
    });
    return lane.out;
}
template <class V> static V __shfl_xor_sync(u32, V v, int mask) { return shuffled("shfl.xor", v, (threadIdx.x % 32) ^ u32(mask)); }
template <class V> static V __shfl_down_sync(u32, V v, u32 by) { return shuffled("shfl.down", v, threadIdx.x % 32 + by); }

// bf16, rounded to nearest even; a NaN stays one.
static inline u32 pack_bf16(float low, float high) {
    const float both[2] = {low, high};
    u32 r = 0;
    for (int i = 0; i < 2; i++) {
        const u32 bits = __float_as_uint(both[i]);
        const u32 half = both[i] != both[i] ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        r |= half << (16 * i);
    }
    return r;
}

static inline float half_of(u32 pair, u32 which) { return __uint_as_float(which ? pair & 0xffff0000u : pair << 16); }

// The layouts of PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type": with g = lane / 4 and t = lane % 4,
// a holds rows g and g + 8 of columns 2t.. and 2t + 8.., b rows 2t.. and 2t + 8.. of column g, d rows g and g + 8 of columns 2t...
static inline void mma_m16n8k16_bf16(float d[4], const u32 a[4], const u32 b[2]) {
    struct Lane {
        float* d;
        const u32 *a, *b;
    } lane = {d, a, b};
    emulate::together("mma.m16n8k16", &lane, [](void** all) {
        float x[16][16], y[16][8];
        for (u32 i = 0; i < 32; i++) {
            const Lane* l = static_cast<Lane*>(all[i]);
            const u32 g = i / 4, t = i % 4;
            for (u32 e = 0; e < 2; e++) {
                x[g][2 * t + e] = half_of(l->a[0], e);
                x[g + 8][2 * t + e] = half_of(l->a[1], e);
                x[g][2 * t + 8 + e] = half_of(l->a[2], e);
                x[g + 8][2 * t + 8 + e] = half_of(l->a[3], e);
                y[2 * t + e][g] = half_of(l->b[0], e);
                y[2 * t + 8 + e][g] = half_of(l->b[1], e);
            }
        }
        for (u32 i = 0; i < 32; i++) {
            const u32 g = i / 4, t = i % 4;
            for (u32 e = 0; e < 4; e++) {
                const u32 r = g + e / 2 * 8, c = 2 * t + e % 2;
                float sum = static_cast<Lane*>(all[i])->d[e];
                for (u32 k = 0; k < 16; k++) sum += x[r][k] * y[k][c];
                static_cast<Lane*>(all[i])->d[e] = sum;
            }
        }
    });
}

// PTX ISA, "ldmatrix": lane 8i + r tells row r of matrix i; of matrix i every lane gets row lane / 4, elements 2 (lane % 4)..,
// or with .trans column lane / 4, elements 2 (lane % 4)...
static inline void load_matrices(const char* what, u32 r[4], const void* row, bool transposed) {
    struct Lane {
        u32* r;
        const void* row;
        bool transposed;
    } lane = {r, row, transposed};
    if (reinterpret_cast<u64>(row) % 16) emulate::fail("ldmatrix of a row that is not aligned to 16 bytes");
    emulate::together(what, &lane, [](void** all) {
        for (u32 i = 0; i < 32; i++) {
            Lane* l = static_cast<Lane*>(all[i]);
            for (u32 m = 0; m < 4; m++) {
                u16 pair[2];
                for (u32 e = 0; e < 2; e++) {
                    const u32 outer = i / 4, inner = i % 4 * 2 + e;
                    const u16* from = static_cast<const u16*>(static_cast<Lane*>(all[8 * m + (l->transposed ? inner : outer)])->row);
                    pair[e] = from[l->transposed ? outer : inner];
                }
                l->r[m] = u32(pair[0]) | u32(pair[1]) << 16;
            }
        }
    });
}
static inline void ldmatrix_x4(u32 r[4], const void* row) { load_matrices("ldmatrix", r, row, false); }
static inline void ldmatrix_x4_trans(u32 r[4], const void* row) { load_matrices("ldmatrix.trans", r, row, true); }

// Copies happen when their group is waited for, not before: whoever reads too early, reads NaN or the last tile.
static inline void cp_async_16(void* to, const void* from, bool valid) {
    emulate::Fiber& f = emulate::fibers[emulate::current];
    if ((reinterpret_cast<u64>(to) | reinterpret_cast<u64>(from)) % 16) emulate::fail("cp.async of 16 bytes that are not aligned to 16");
    if (f.waiting == emulate::COPIES) emulate::fail("more copies under way than the emulation holds");
    f.copies[f.waiting++] = {to, from, f.groups, valid};
}
static inline void cp_async_commit() { emulate::fibers[emulate::current].groups++; }
template <int N> static inline void cp_async_wait() {
    emulate::Fiber& f = emulate::fibers[emulate::current];
    u32 left = 0;
    for (u32 i = 0; i < f.waiting; i++) {
        const emulate::Copy c = f.copies[i];
        if (c.group + N < f.groups) {
            if (c.valid) memcpy(c.to, c.from, 16);
            else memset(c.to, 0, 16);
        } else {
            f.copies[left++] = c;
        }
    }
    f.waiting = left;
}
