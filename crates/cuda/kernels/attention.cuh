// What the attention kernels share: their parameters, and which keys a query sees.
#pragma once
#include "device.cuh"

enum { ALL = 0, CAUSAL = 1, WINDOW = 2 };

struct Attention {
    const T* qkv;       // [tokens, 3 hidden], turned by position where the model does so
    const T* y;         // [tokens, hidden]; backward
    const T* dy;        // [tokens, hidden]; backward
    T* out;             // y, or dqkv
    float* lse;         // [tokens, heads] or null
    float* delta;       // [tokens, heads]: Σ dy ⊙ y of each head; backward
    const u32* starts;  // [sequences + 1]
    const u32* tiles;   // [count, 2]: sequence, first row within it; 64 rows each
    Draws draws;        // threshold 0: no dropout
    u32 heads, head_dim, visibility, window;
    float scale;
    u32 unused;
};

// Rows of a tile.
enum { ROWS = 64 };

static __device__ __forceinline__ bool sees(const Attention& a, u32 i, u32 j) {
    if (a.visibility == ALL) return true;
    if (a.visibility == CAUSAL) return j <= i;
    return j + a.window >= i && j <= i + a.window;
}

// The keys that any query of first..last sees, in a sequence of n.
static __device__ __forceinline__ void keys_of(const Attention& a, u32 first, u32 last, u32 n, u32& low, u32& high) {
    low = 0, high = n;
    if (a.visibility == CAUSAL) high = min(n, last);
    if (a.visibility == WINDOW) low = first > a.window ? first - a.window : 0, high = n - last > a.window ? last + a.window : n;
}

// The queries that see any key of first..last.
static __device__ __forceinline__ void queries_of(const Attention& a, u32 first, u32 last, u32 n, u32& low, u32& high) {
    keys_of(a, first, last, n, low, high);
    if (a.visibility == CAUSAL) low = first, high = n;
}

// Eight neighbouring keys from `j` on (a multiple of 8) share a Philox block: bit k says whether key j + k is kept.
static __device__ __forceinline__ u32 kept_keys(const Attention& a, u64 t, u32 head, u32 j) {
    return kept8(a.draws, (((t * a.heads + head) << 20) + j) >> 3);
}
