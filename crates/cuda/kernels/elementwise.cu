// Sums, dropout, conversion: eight elements a thread.
#include "device.cuh"

struct Accumulate {
    T* sum;
    const T* x;
    u64 n;
};

KERNEL(accumulate, Accumulate, 256) {
    const u64 i = 8 * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.n) return;
    float s[8], x[8];
    load_up_to_8(a.sum + i, a.n - i, s);
    load_up_to_8(a.x + i, a.n - i, x);
#pragma unroll
    for (int k = 0; k < 8; k++) s[k] += x[k];
    store_up_to_8(a.sum + i, a.n - i, s);
}

struct Drop {
    const T* x;
    T* y;
    u64 n;
    Draws draws;
};

KERNEL(dropout, Drop, 256) {
    const u64 block = u64(blockIdx.x) * 256 + threadIdx.x, i = 8 * block;
    if (i >= a.n) return;
    float x[8];
    load_up_to_8(a.x + i, a.n - i, x);
    const u32 kept = kept8(a.draws, block);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] *= (kept >> k) & 1 ? a.draws.scale : 0.0f;
    store_up_to_8(a.y + i, a.n - i, x);
}

struct Convert {
    const float* from;
    T* to;
    u64 n;
};

// f32 to the element type: the operands of products in bf16 follow the master weights.
KERNEL(convert, Convert, 256) {
    const u64 i = 8 * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.n) return;
    float v[8];
    load_up_to_8(a.from + i, a.n - i, v);
    store_up_to_8(a.to + i, a.n - i, v);
}
