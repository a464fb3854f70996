// y = f(a) ⊙ b with x = [a | b], and its backward half.
#include "device.cuh"

struct Gated {
    const T* x;   // [rows, 2 inner]
    const T* dy;  // [rows, inner]; backward
    T* out;       // y [rows, inner], or dx [rows, 2 inner]
    u64 rows;
    u32 inner, f;
};

template <int W> static __device__ __forceinline__ void forward(const Gated& a) {
    const u64 i = u64(W) * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.rows * a.inner) return;
    const u64 row = i / a.inner, c = i % a.inner;
    float g[W], v[W];
    load<W>(a.x + 2 * row * a.inner + c, g);
    load<W>(a.x + (2 * row + 1) * a.inner + c, v);
#pragma unroll
    for (int k = 0; k < W; k++) v[k] *= activation(a.f, g[k]);
    store<W>(a.out + i, v);
}

template <int W> static __device__ __forceinline__ void backward(const Gated& a) {
    const u64 i = u64(W) * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.rows * a.inner) return;
    const u64 row = i / a.inner, c = i % a.inner;
    float g[W], v[W], d[W];
    load<W>(a.x + 2 * row * a.inner + c, g);
    load<W>(a.x + (2 * row + 1) * a.inner + c, v);
    load<W>(a.dy + i, d);
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float dv = d[k] * activation(a.f, g[k]);
        g[k] = d[k] * v[k] * derivative(a.f, g[k]);
        v[k] = dv;
    }
    store<W>(a.out + 2 * row * a.inner + c, g);
    store<W>(a.out + (2 * row + 1) * a.inner + c, v);
}

KERNEL(gated, Gated, 256) {
    if (a.inner % 8 == 0) {
        forward<8>(a);
    } else {
        forward<1>(a);
    }
}

KERNEL(gated_backward, Gated, 256) {
    if (a.inner % 8 == 0) {
        backward<8>(a);
    } else {
        backward<1>(a);
    }
}
