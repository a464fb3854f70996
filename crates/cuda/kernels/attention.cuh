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
    const float* bias;  // [2 reach + 1, heads]: what is added to a score, by distance of the key from the query
    float* dbias;       // [count, 2 reach + 1, heads]: the gradients that each tile of queries gives; backward
    Draws draws;        // threshold 0: no dropout
    u32 heads, head_dim, visibility, window;
    float scale;
    u32 reach;
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

// The bias is compiled in, so that models without one pay nothing for it.
#ifdef BIASED
// What head `head` adds to the score of a key `distance` places behind its query.
static __device__ __forceinline__ float bias_at(const Attention& a, u32 head, int distance) {
    const int reach = int(a.reach), cut = distance < -reach ? -reach : distance > reach ? reach : distance;
    return a.bias[u64(cut + reach) * a.heads + head];
}

// The slopes of a tile's scores, [ROWS][columns + 1] in shared memory, go to the gradients of their distances: a thread sums a
// diagonal. Column 0 is `distance` places behind row 0. All threads of the block come here, and a barrier stands between two calls.
static __device__ __forceinline__ void add_diagonals(const Attention& a, u32 head, const float* slopes, int columns, int distance) {
    __shared__ float ends[2][8];
    const int rows = ROWS, reach = int(a.reach), diagonal = int(threadIdx.x) - (rows - 1), d = distance + diagonal;
    float sum = 0;
    for (int r = diagonal < 0 ? -diagonal : 0; r < rows && r + diagonal < columns; r++) sum += slopes[r * (columns + 1) + r + diagonal];
    float* to = a.dbias + u64(blockIdx.x) * (2 * a.reach + 1) * a.heads + head;
    const bool below = d <= -reach, above = !below && d >= reach;
    if (!below && !above && diagonal < columns) to[u64(d + reach) * a.heads] += sum;
    if (distance - rows < -reach || distance + columns > reach) {
        // Several diagonals share the distances at the ends.
        const float low = warp_sum(below ? sum : 0.0f), high = warp_sum(above ? sum : 0.0f);
        if (threadIdx.x % 32 == 0) ends[0][threadIdx.x / 32] = low, ends[1][threadIdx.x / 32] = high;
        __syncthreads();
        if (threadIdx.x == 0) {
            float sums[2] = {0, 0};
            for (u32 w = 0; w < blockDim.x / 32; w++) sums[0] += ends[0][w], sums[1] += ends[1][w];
            to[0] += sums[0];
            to[u64(2 * a.reach) * a.heads] += sums[1];
        }
    }
}
#endif
