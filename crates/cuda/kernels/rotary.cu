// Rotary positions: components (c, c + D/2) of q and k at position i are turned by i · θ^(−2c/D), or back.
#include "device.cuh"

struct Rotary {
    const T* from;       // [tokens, 3 hidden]
    T* to;               // the same shape; may be the same memory
    const float* turns;  // [positions, D/2, 2]: cosine and sine
    const u32* starts;   // [sequences + 1]
    u32 tokens, heads, head_dim, sequences;
    float sign;  // 1 forward, -1 for gradients
    u32 unused;
};

// A warp takes a token; v is copied.
KERNEL(rotary, Rotary, 128) {
    const u32 lane = threadIdx.x % 32, t = blockIdx.x * 4 + threadIdx.x / 32;
    if (t >= a.tokens) return;
    const u32 half = a.head_dim / 2, hidden = a.heads * a.head_dim;
    const u32 position = t - a.starts[sequence_of(a.starts, a.sequences, t)];
    const u64 base = u64(t) * 3 * hidden;
    for (u32 i = lane; i < 2 * a.heads * half; i += 32) {
        const u32 c = i % half;
        const u64 at = base + u64(i / half) * a.head_dim + c;
        const float* turn = a.turns + (u64(position) * half + c) * 2;
        const float cosine = turn[0], sine = a.sign * turn[1], x = to_float(a.from[at]), y = to_float(a.from[at + half]);
        a.to[at] = Element<T>::of(x * cosine - y * sine);
        a.to[at + half] = Element<T>::of(y * cosine + x * sine);
    }
    if (a.from == a.to) return;
    for (u32 i = lane; i < hidden; i += 32) a.to[base + 2 * hidden + i] = a.from[base + 2 * hidden + i];
}
