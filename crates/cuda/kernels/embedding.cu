// Sums of up to three tables: a warp takes a token.
#include "device.cuh"

struct Embedding {
    const float* word;      // [V, cols]
    const float* position;  // [P, cols] or null
    const float* segment;   // [segments, cols] or null
    const u32* ids;         // [tokens]
    const u32* segments;    // [tokens] or null
    const u32* starts;      // [sequences + 1]
    T* y;                   // [tokens, cols]
    u32 tokens, cols, sequences, position_offset;
};

KERNEL(embedding, Embedding, 128) {
    const u32 lane = threadIdx.x % 32, t = blockIdx.x * 4 + threadIdx.x / 32;
    if (t >= a.tokens) return;
    const float* word = a.word + u64(a.ids[t]) * a.cols;
    const float* segment = a.segment ? a.segment + u64(a.segments[t]) * a.cols : nullptr;
    const float* position = nullptr;
    if (a.position) position = a.position + u64(t - a.starts[sequence_of(a.starts, a.sequences, t)] + a.position_offset) * a.cols;
    for (u32 c = lane; c < a.cols; c += 32) {
        float v = word[c];
        if (position) v += position[c];
        if (segment) v += segment[c];
        a.y[u64(t) * a.cols + c] = Element<T>::of(v);
    }
}
