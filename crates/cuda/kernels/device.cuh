// What all kernels share: element types, wide loads, reductions in a fixed order, Philox, activations, and the few PTX
// instructions that attention needs, each behind a function of its own.
//
// A kernel takes one block of parameters by value, `a`; the host launches it with the bytes of the same struct in Rust.
// No kernel uses atomics: whatever is summed is summed in one order. Blocks have a multiple of 32 threads.
//
// Nothing is included but files of this folder, so that NVRTC needs no headers of a toolkit. With CLOZE_EMULATED the same
// text is compiled by a C++ compiler for tests: emulate.h then supplies threads, barriers, shuffles and those functions.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef CLOZE_EMULATED
#include "emulate.h"
#else

#define KERNEL(name, Args, threads) extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
#define DYNAMIC_SHARED(Type, name)                             \
    extern __shared__ __align__(16) unsigned char name##_raw[]; \
    Type* name = reinterpret_cast<Type*>(name##_raw)

// d += a · b on tensor cores: a [16, 16] rows first, b [16, 8] columns first, d [16, 8] in f32.
static __device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Four 8×8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i.
static __device__ __forceinline__ void ldmatrix_x4(u32 r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
static __device__ __forceinline__ void ldmatrix_x4_trans(u32 r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copy 16 bytes to shared memory behind the thread's back; zeros where `valid` is false (then `from` is not read).
static __device__ __forceinline__ void cp_async_16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most N of the thread's groups are under way.
template <int N> static __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Two floats as bf16, rounded to nearest even; `low` in the lower half.
static __device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
#endif

// ---------------------------------------------------------------------------------------------------------- elements

struct bf16 {
    u16 bits;
};

static __device__ __forceinline__ float bits_to_float(u32 bits) { return __uint_as_float(bits); }
static __device__ __forceinline__ float infinity() { return bits_to_float(0x7f800000u); }
static __device__ __forceinline__ float to_float(float v) { return v; }
static __device__ __forceinline__ float to_float(bf16 v) { return bits_to_float(u32(v.bits) << 16); }

template <class E> struct Element;
template <> struct Element<float> {
    static __device__ __forceinline__ float of(float v) { return v; }
};
template <> struct Element<bf16> {
    static __device__ __forceinline__ bf16 of(float v) {
        bf16 r;
        r.bits = u16(pack_bf16(v, 0.0f));
        return r;
    }
};

// The element type of activations in this compilation.
#ifdef ELEMENT_BF16
typedef bf16 T;
#else
typedef float T;
#endif

// Eight elements at a multiple of eight elements.
static __device__ __forceinline__ void load8(const float* p, float v[8]) {
    const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
static __device__ __forceinline__ void load8(const bf16* p, float v[8]) {
    const uint4 a = *reinterpret_cast<const uint4*>(p);
    const u32 w[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = bits_to_float(w[i] << 16);
        v[2 * i + 1] = bits_to_float(w[i] & 0xffff0000u);
    }
}
static __device__ __forceinline__ void store8(float* p, const float v[8]) {
    reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void store8(bf16* p, const float v[8]) {
    *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// The first `n` of eight elements, zeros after them; wide where all eight are there.
template <class E> static __device__ __forceinline__ void load_up_to_8(const E* p, u64 n, float v[8]) {
    if (n >= 8) {
        load8(p, v);
        return;
    }
    for (u32 i = 0; i < 8; i++) v[i] = i < n ? to_float(p[i]) : 0.0f;
}
template <class E> static __device__ __forceinline__ void store_up_to_8(E* p, u64 n, const float v[8]) {
    if (n >= 8) {
        store8(p, v);
        return;
    }
    for (u32 i = 0; i < n; i++) p[i] = Element<E>::of(v[i]);
}

// W elements, 8 or 1.
template <int W, class E> static __device__ __forceinline__ void load(const E* p, float v[W]) {
    if constexpr (W == 8) {
        load8(p, v);
    } else {
        v[0] = to_float(*p);
    }
}
template <int W, class E> static __device__ __forceinline__ void store(E* p, const float v[W]) {
    if constexpr (W == 8) {
        store8(p, v);
    } else {
        *p = Element<E>::of(v[0]);
    }
}

// --------------------------------------------------------------------------------------------------- sums of a warp

static __device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

// Sums of doubles travel as two halves: shuffles move 32 bits.
static __device__ __forceinline__ double warp_sum(double v) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) {
        const u32 low = __shfl_xor_sync(0xffffffffu, u32(__double2loint(v)), i), high = __shfl_xor_sync(0xffffffffu, u32(__double2hiint(v)), i);
        v += __hiloint2double(int(high), int(low));
    }
    return v;
}

static __device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}

// -------------------------------------------------------------------------------------------------------- randomness

// Dropout of one place: element i is dropped where its 16-bit draw is below the threshold.
struct Draws {
    u32 key0, key1, high0, high1, threshold;
    float scale;
};

// Philox4x32-10 (Salmon et al. 2011), the same function as on the host: block `b` of the stream.
static __device__ __forceinline__ void philox(const Draws& d, u64 b, u32 c[4]) {
    u32 k0 = d.key0, k1 = d.key1;
    c[0] = u32(b), c[1] = u32(b >> 32), c[2] = d.high0, c[3] = d.high1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 p0 = u64(0xD2511F53u) * c[0], p1 = u64(0xCD9E8D57u) * c[2];
        const u32 c0 = u32(p1 >> 32) ^ c[1] ^ k0, c2 = u32(p0 >> 32) ^ c[3] ^ k1;
        c[0] = c0, c[1] = u32(p1), c[2] = c2, c[3] = u32(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

// Bit i: whether element 8b + i is kept.
static __device__ __forceinline__ u32 kept8(const Draws& d, u64 b) {
    u32 c[4], bits = 0;
    philox(d, b, c);
#pragma unroll
    for (int i = 0; i < 8; i++) bits |= u32(((c[i / 2] >> (16 * (i % 2))) & 0xffffu) >= d.threshold) << i;
    return bits;
}

// The factor of one element.
static __device__ __forceinline__ float drop_factor(const Draws& d, u64 i) { return (kept8(d, i >> 3) >> (i & 7)) & 1 ? d.scale : 0.0f; }

// -------------------------------------------------------------------------------------------------------- activations

enum { GELU = 0, GELU_TANH = 1, RELU = 2, SILU = 3, TANH = 4 };

static __device__ __forceinline__ float activation(u32 f, float x) {
    switch (f) {
        case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case RELU: return x > 0.0f ? x : (x != x ? x : 0.0f);  // a NaN stays one
        case SILU: return x / (1.0f + expf(-x));
        default: return tanhf(x);
    }
}

static __device__ __forceinline__ float derivative(u32 f, float x) {
    switch (f) {
        case GELU: return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
        case GELU_TANH: {
            const float t = tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x));
            return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456080286536f * (1.0f + 3.0f * 0.044715f * x * x);
        }
        case RELU: return x > 0.0f ? 1.0f : 0.0f;
        case SILU: {
            const float s = 1.0f / (1.0f + expf(-x));
            return s * (1.0f + x * (1.0f - s));
        }
        default: {
            const float t = tanhf(x);
            return 1.0f - t * t;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- sequences

// The sequence that token `t` of a packed batch belongs to: the last s with starts[s] <= t. Empty ones are passed over.
static __device__ __forceinline__ u32 sequence_of(const u32* starts, u32 sequences, u32 t) {
    u32 low = 0, high = sequences;
    while (low + 1 < high) {
        const u32 middle = (low + high) / 2;
        if (starts[middle] <= t) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}
