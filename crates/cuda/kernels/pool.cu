// One row for each sequence: its first token, the mean, the maximum. Block (s, j): sequence s, columns 128 j...
#include "device.cuh"

enum { FIRST = 0, MEAN = 1, MAX = 2 };

struct Pool {
    const T* x;         // [tokens, cols]
    const u32* starts;  // [sequences + 1]
    T* y;               // [sequences, cols]; dy in backward
    T* dx;              // [tokens, cols]
    u32 cols, kind, add, unused;
};

// The earliest token with the largest component c.
static __device__ __forceinline__ u32 argmax(const Pool& a, u32 first, u32 last, u32 c) {
    u32 best = first;
    float largest = to_float(a.x[u64(first) * a.cols + c]);
    for (u32 t = first + 1; t < last; t++) {
        const float v = to_float(a.x[u64(t) * a.cols + c]);
        if (v > largest) largest = v, best = t;
    }
    return best;
}

KERNEL(pool, Pool, 128) {
    const u32 s = blockIdx.x, c = blockIdx.y * 128 + threadIdx.x, first = a.starts[s], last = a.starts[s + 1];
    if (c >= a.cols) return;
    float v = 0;
    if (first < last) {
        if (a.kind == FIRST) {
            v = to_float(a.x[u64(first) * a.cols + c]);
        } else if (a.kind == MEAN) {
            for (u32 t = first; t < last; t++) v += to_float(a.x[u64(t) * a.cols + c]);
            v /= float(last - first);
        } else {
            v = to_float(a.x[u64(argmax(a, first, last, c)) * a.cols + c]);
        }
    }
    a.y[u64(s) * a.cols + c] = Element<T>::of(v);
}

KERNEL(pool_backward, Pool, 128) {
    const u32 s = blockIdx.x, c = blockIdx.y * 128 + threadIdx.x, first = a.starts[s], last = a.starts[s + 1];
    if (c >= a.cols || first == last) return;
    const float dy = to_float(a.y[u64(s) * a.cols + c]);
    const u32 one = a.kind == MAX ? argmax(a, first, last, c) : first;
    for (u32 t = first; t < last; t++) {
        const u64 at = u64(t) * a.cols + c;
        const float share = a.kind == MEAN ? dy / float(last - first) : (t == one ? dy : 0.0f);
        a.dx[at] = Element<T>::of(a.add ? to_float(a.dx[at]) + share : share);
    }
}
