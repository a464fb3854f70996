// Attention on tensor cores, bf16: the tiles of FlashAttention-2 (Dao 2023) over packed sequences.
//
// A block of four warps takes 64 rows of one head of one sequence, a warp 16 of them; the other side passes by in tiles of 64 rows,
// the next one on its way (cp.async) while one is worked on. Scores, probabilities and their gradients stay in registers: the
// layout in which mma leaves a 16×8 result is the one in which it takes a 16×16 operand, two tiles side by side.
//
// The gradient of q needs sums over keys, those of k and v sums over queries. Two kernels compute the scores again rather
// than add to one matrix with atomics: the sums have one order, the same for a sequence alone and in a batch.
//
// HEAD_DIM is D rounded up to a multiple of 16; the components beyond D are zeros. D is a multiple of 8.
#include "attention.cuh"

enum {
    PITCH = HEAD_DIM + 8,        // 16 bytes of padding: eight rows of a matrix lie in eight groups of banks
    TILE = ROWS * PITCH,         // elements of a tile
    STEPS = HEAD_DIM / 16,       // mma steps over D
    PARTS = HEAD_DIM / 8,        // 16×8 results over D
    OTHER = ROWS / 8,            // 16×8 results over the other side's rows
    MASK = ROWS * OTHER          // bytes of the dropout draws of a tile
};

static __device__ __forceinline__ float log2_e() { return 1.4426950408889634f; }

// Rows first..first + 64 of one part of one head, zeros beyond n and beyond D. `from` is row 0.
static __device__ __forceinline__ void start_tile(T* to, const T* from, u64 pitch, u32 first, u32 n, u32 d) {
#pragma unroll
    for (int k = 0; k < ROWS * PARTS / 128; k++) {
        const u32 i = threadIdx.x + 128 * k, r = i / PARTS, c = i % PARTS * 8;
        const bool valid = first + r < n && c < d;
        cp_async_16(to + r * PITCH + c, valid ? from + (first + r) * pitch + c : from, valid);
    }
}

// The draws of a tile: byte [query][key / 8], bit = key % 8.
static __device__ __forceinline__ void draw_tile(const Attention& a, u8* mask, u64 query, u32 head, u32 key) {
#pragma unroll
    for (int k = 0; k < MASK / 128; k++) {
        const u32 i = threadIdx.x + 128 * k;
        mask[i] = u8(kept_keys(a, query + i / OTHER, head, key + i % OTHER * 8));
    }
}

#ifdef BIASED
// The biases of a tile's distances, in units of log₂: `to[column − row + ROWS − 1]`, where column 0 is `distance` places behind row 0.
static __device__ __forceinline__ void start_biases(const Attention& a, float* to, u32 head, int distance) {
    to[threadIdx.x] = bias_at(a, head, distance + int(threadIdx.x) - (ROWS - 1)) * log2_e();
}
#endif

// A 16×16 operand from rows row.. and components 16 step...
static __device__ __forceinline__ void load_a(u32 r[4], const T* tile, u32 row, u32 step) {
    const u32 lane = threadIdx.x % 32;
    ldmatrix_x4(r, tile + (row + lane % 16) * PITCH + step * 16 + lane / 16 * 8);
}

// s [16, 64] += rows row.. of `mine` times the rows of `other`, over D.
static __device__ __forceinline__ void multiply_rows(float s[OTHER][4], const T* mine, u32 row, const T* other) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        u32 x[4];
        load_a(x, mine, row, step);
#pragma unroll
        for (int pair = 0; pair < OTHER / 2; pair++) {
            u32 y[4];
            ldmatrix_x4(y, other + (pair * 16 + lane / 16 * 8 + lane % 8) * PITCH + step * 16 + lane / 8 % 2 * 8);
            mma_m16n8k16_bf16(s[2 * pair], x, y);
            mma_m16n8k16_bf16(s[2 * pair + 1], x, y + 2);
        }
    }
}

// o [16, D] += p [16, 64] times the rows of `other` [64, D].
static __device__ __forceinline__ void add_rows(float o[PARTS][4], float p[OTHER][4], const T* other) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int pair = 0; pair < OTHER / 2; pair++) {
        const float* left = p[2 * pair];
        const float* right = p[2 * pair + 1];
        const u32 x[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]), pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])};
#pragma unroll
        for (int part = 0; part < PARTS / 2; part++) {
            u32 y[4];
            ldmatrix_x4_trans(y, other + (pair * 16 + lane % 16) * PITCH + part * 16 + lane / 16 * 8);
            mma_m16n8k16_bf16(o[2 * part], x, y);
            mma_m16n8k16_bf16(o[2 * part + 1], x, y + 2);
        }
    }
}

template <int N> static __device__ __forceinline__ void clear(float x[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) x[i][e] = 0;
    }
}

// Write o [16, D], times `scale` of its two rows, to row `row` of the sequence on; `to` is row 0.
static __device__ __forceinline__ void write_rows(T* to, u64 pitch, u32 row, u32 n, u32 d, float o[PARTS][4], const float scale[2]) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const u32 c = part * 8 + lane % 4 * 2;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 r = row + lane / 4 + 8 * h;
            if (r < n && c < d) *reinterpret_cast<u32*>(to + r * pitch + c) = pack_bf16(o[part][2 * h] * scale[h], o[part][2 * h + 1] * scale[h]);
        }
    }
}

// Dynamic shared memory: queries; two stages of keys and values; two stages of draws.
KERNEL(attention, Attention, 128) {
    DYNAMIC_SHARED(T, qs);
    T* ks = qs + TILE;
    T* vs = ks + 2 * TILE;
    u8* mask = reinterpret_cast<u8*>(vs + 2 * TILE);
#ifdef BIASED
    __shared__ float biases[2][2 * ROWS];
#endif
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], q0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(q0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    const float scale = a.scale * log2_e();
    const bool drops = a.draws.threshold != 0;
    u32 low, high;
    keys_of(a, q0, last, n, low, high);
    low = low / ROWS * ROWS;
    start_tile(qs, q, pitch, q0, n, d);
    start_tile(ks, q + hidden, pitch, low, n, d);
    start_tile(vs, q + 2 * hidden, pitch, low, n, d);
    cp_async_commit();
    float o[PARTS][4], largest[2] = {-infinity(), -infinity()}, sum[2] = {0, 0};
    clear<PARTS>(o);
    u32 stage = 0;
    for (u32 j0 = low; j0 < high; j0 += ROWS, stage ^= 1) {
        if (drops) draw_tile(a, mask + stage * MASK, u64(first) + q0, head, j0);
#ifdef BIASED
        start_biases(a, biases[stage], head, int(j0) - int(q0));
#endif
        cp_async_wait<0>();
        __syncthreads();  // the tile is there, and nobody reads the other stage any more
        if (j0 + ROWS < high) {
            start_tile(ks + (stage ^ 1) * TILE, q + hidden, pitch, j0 + ROWS, n, d);
            start_tile(vs + (stage ^ 1) * TILE, q + 2 * hidden, pitch, j0 + ROWS, n, d);
            cp_async_commit();
        }
        float s[OTHER][4];
        clear<OTHER>(s);
        multiply_rows(s, qs, warp * 16, ks + stage * TILE);
        const bool cut = j0 + ROWS > n || a.visibility != ALL;
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int t = 0; t < OTHER; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 i = q0 + warp * 16 + lane / 4 + e / 2 * 8, j = j0 + t * 8 + lane % 4 * 2 + e % 2;
                s[t][e] *= scale;
#ifdef BIASED
                s[t][e] += biases[stage][j - j0 + ROWS - 1 - (i - q0)];
#endif
                if (cut && !(j < n && sees(a, i, j))) s[t][e] = -infinity();
                most[e / 2] = fmaxf(most[e / 2], s[t][e]);
            }
        }
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            most[h] = fmaxf(most[h], __shfl_xor_sync(0xffffffffu, most[h], 1));
            most[h] = fmaxf(most[h], __shfl_xor_sync(0xffffffffu, most[h], 2));
            // A row that has seen no key yet: any finite number serves as its largest.
            const float base = most[h] == -infinity() ? 0.0f : most[h];
            factor[h] = exp2f(largest[h] - base);
            largest[h] = most[h];
            most[h] = base;
            sum[h] *= factor[h];
        }
#pragma unroll
        for (int t = 0; t < OTHER; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[t][e] = exp2f(s[t][e] - most[e / 2]);
                sum[e / 2] += s[t][e];
            }
        }
        if (drops) {
#pragma unroll
            for (int t = 0; t < OTHER; t++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const u32 kept = mask[stage * MASK + (warp * 16 + lane / 4 + 8 * h) * OTHER + t] >> (lane % 4 * 2);
                    if (!(kept & 1)) s[t][2 * h] = 0;
                    if (!(kept & 2)) s[t][2 * h + 1] = 0;
                }
            }
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
#pragma unroll
            for (int e = 0; e < 4; e++) o[part][e] *= factor[e / 2];
        }
        add_rows(o, s, vs + stage * TILE);
    }
    float scales[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
        scales[h] = (drops ? a.draws.scale : 1.0f) / sum[h];
        const u32 i = q0 + warp * 16 + lane / 4 + 8 * h;
        if (a.lse && lane % 4 == 0 && i < n) a.lse[u64(first + i) * a.heads + head] = (largest[h] + log2f(sum[h])) / log2_e();
    }
    write_rows(a.out + u64(first) * hidden + head * d, hidden, q0 + warp * 16, n, d, o, scales);
}

// dq, and delta for the other half. Dynamic shared memory: queries, their dy; two stages of keys and values; two stages of draws; slopes,
// where a bias learns.
KERNEL(attention_dq, Attention, 128) {
    DYNAMIC_SHARED(T, qs);
    __shared__ float deltas[ROWS];
    T* dys = qs + TILE;
    T* ks = dys + TILE;
    T* vs = ks + 2 * TILE;
    u8* mask = reinterpret_cast<u8*>(vs + 2 * TILE);
#ifdef BIASED
    __shared__ float biases[2][2 * ROWS];
    float* slopes = reinterpret_cast<float*>(mask + 2 * MASK);
#endif
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], q0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(q0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    const T* dy = a.dy + u64(first) * hidden + head * d;
    const T* y = a.y + u64(first) * hidden + head * d;
    const float scale = a.scale * log2_e();
    const bool drops = a.draws.threshold != 0;
    u32 low, high;
    keys_of(a, q0, last, n, low, high);
    low = low / ROWS * ROWS;
    start_tile(qs, q, pitch, q0, n, d);
    start_tile(dys, dy, hidden, q0, n, d);
    start_tile(ks, q + hidden, pitch, low, n, d);
    start_tile(vs, q + 2 * hidden, pitch, low, n, d);
    cp_async_commit();
    {
        // Two threads take the Σ dy ⊙ y of a row.
        const u32 r = threadIdx.x / 2, i = q0 + r;
        float delta = 0;
        if (i < n) {
            for (u32 c = threadIdx.x % 2 * 8; c < d; c += 16) {
                float x[8], z[8];
                load8(dy + u64(i) * hidden + c, x);
                load8(y + u64(i) * hidden + c, z);
#pragma unroll
                for (int k = 0; k < 8; k++) delta += x[k] * z[k];
            }
        }
        delta += __shfl_xor_sync(0xffffffffu, delta, 1);
        if (threadIdx.x % 2 == 0) {
            deltas[r] = delta;
            if (i < n) a.delta[u64(first + i) * a.heads + head] = delta;
        }
    }
    float lse[2], dq[PARTS][4];
    clear<PARTS>(dq);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 i = q0 + warp * 16 + lane / 4 + 8 * h;
        lse[h] = i < n ? a.lse[u64(first + i) * a.heads + head] * log2_e() : infinity();
    }
    u32 stage = 0;
    for (u32 j0 = low; j0 < high; j0 += ROWS, stage ^= 1) {
        if (drops) draw_tile(a, mask + stage * MASK, u64(first) + q0, head, j0);
#ifdef BIASED
        start_biases(a, biases[stage], head, int(j0) - int(q0));
#endif
        cp_async_wait<0>();
        __syncthreads();
        if (j0 + ROWS < high) {
            start_tile(ks + (stage ^ 1) * TILE, q + hidden, pitch, j0 + ROWS, n, d);
            start_tile(vs + (stage ^ 1) * TILE, q + 2 * hidden, pitch, j0 + ROWS, n, d);
            cp_async_commit();
        }
        float s[OTHER][4], dp[OTHER][4];
        clear<OTHER>(s);
        clear<OTHER>(dp);
        multiply_rows(s, qs, warp * 16, ks + stage * TILE);
        multiply_rows(dp, dys, warp * 16, vs + stage * TILE);
        const bool cut = j0 + ROWS > n || a.visibility != ALL;
#pragma unroll
        for (int t = 0; t < OTHER; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 r = warp * 16 + lane / 4 + e / 2 * 8, i = q0 + r, j = j0 + t * 8 + lane % 4 * 2 + e % 2;
                float score = s[t][e] * scale, kept = 1.0f;
#ifdef BIASED
                score += biases[stage][j - j0 + ROWS - 1 - r];
#endif
                float p = exp2f(score - lse[e / 2]);
                if (cut && !(j < n && sees(a, i, j))) p = 0;
                if (drops) kept = (mask[stage * MASK + r * OTHER + t] >> (lane % 4 * 2 + e % 2)) & 1 ? a.draws.scale : 0.0f;
                const float slope = p * (kept * dp[t][e] - deltas[r]);
#ifdef BIASED
                slopes[r * (ROWS + 1) + j - j0] = slope;
#endif
                s[t][e] = slope * a.scale;
            }
        }
        add_rows(dq, s, ks + stage * TILE);
#ifdef BIASED
        __syncthreads();
        add_diagonals(a, head, slopes, ROWS, int(j0) - int(q0));
#endif
    }
    const float one[2] = {1.0f, 1.0f};
    write_rows(a.out + first * pitch + head * d, pitch, q0 + warp * 16, n, d, dq, one);
}

// dk and dv: the block's rows are keys, queries pass by, and the scores are transposed.
// Dynamic shared memory: keys, values; two stages of queries and their dy; two stages of draws.
KERNEL(attention_dkv, Attention, 128) {
    DYNAMIC_SHARED(T, ks);
    __shared__ float lses[2][ROWS], deltas[2][ROWS];
    T* vs = ks + TILE;
    T* qs = vs + TILE;
    T* dys = qs + 2 * TILE;
    u8* mask = reinterpret_cast<u8*>(dys + 2 * TILE);
#ifdef BIASED
    __shared__ float biases[2][2 * ROWS];
#endif
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], k0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(k0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    const T* dy = a.dy + u64(first) * hidden + head * d;
    const float scale = a.scale * log2_e();
    const bool drops = a.draws.threshold != 0;
    u32 low, high;
    queries_of(a, k0, last, n, low, high);
    low = low / ROWS * ROWS;
    start_tile(ks, q + hidden, pitch, k0, n, d);
    start_tile(vs, q + 2 * hidden, pitch, k0, n, d);
    start_tile(qs, q, pitch, low, n, d);
    start_tile(dys, dy, hidden, low, n, d);
    cp_async_commit();
    float dk[PARTS][4], dv[PARTS][4];
    clear<PARTS>(dk);
    clear<PARTS>(dv);
    u32 stage = 0;
    for (u32 i0 = low; i0 < high; i0 += ROWS, stage ^= 1) {
        if (drops) draw_tile(a, mask + stage * MASK, u64(first) + i0, head, k0);
#ifdef BIASED
        start_biases(a, biases[stage], head, int(k0) - int(i0));
#endif
        if (threadIdx.x < ROWS) {
            const u32 i = i0 + threadIdx.x;
            const u64 at = u64(first + i) * a.heads + head;
            lses[stage][threadIdx.x] = i < n ? a.lse[at] * log2_e() : infinity();
            deltas[stage][threadIdx.x] = i < n ? a.delta[at] : 0.0f;
        }
        cp_async_wait<0>();
        __syncthreads();
        if (i0 + ROWS < high) {
            start_tile(qs + (stage ^ 1) * TILE, q, pitch, i0 + ROWS, n, d);
            start_tile(dys + (stage ^ 1) * TILE, dy, hidden, i0 + ROWS, n, d);
            cp_async_commit();
        }
        float s[OTHER][4], dp[OTHER][4];
        clear<OTHER>(s);
        clear<OTHER>(dp);
        multiply_rows(s, ks, warp * 16, qs + stage * TILE);
        multiply_rows(dp, vs, warp * 16, dys + stage * TILE);
#pragma unroll
        for (int t = 0; t < OTHER; t++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 r = warp * 16 + lane / 4 + e / 2 * 8, j = k0 + r, c = t * 8 + lane % 4 * 2 + e % 2, i = i0 + c;
                float score = s[t][e] * scale, kept = 1.0f;
#ifdef BIASED
                score += biases[stage][r + ROWS - 1 - c];
#endif
                float p = exp2f(score - lses[stage][c]);
                if (!(i < n && j < n && sees(a, i, j))) p = 0;
                if (drops) kept = (mask[stage * MASK + c * OTHER + r / 8] >> (r % 8)) & 1 ? 1.0f : 0.0f;
                const float slope = drops ? kept * a.draws.scale * dp[t][e] : dp[t][e];
                s[t][e] = p * kept;  // dropout's factor is applied at the end
                dp[t][e] = p * (slope - deltas[stage][c]) * a.scale;
            }
        }
        add_rows(dv, s, dys + stage * TILE);
        add_rows(dk, dp, qs + stage * TILE);
    }
    const float one[2] = {1.0f, 1.0f}, drop = drops ? a.draws.scale : 1.0f, scales[2] = {drop, drop};
    T* to = a.out + first * pitch + head * d;
    write_rows(to + hidden, pitch, k0 + warp * 16, n, d, dk, one);
    write_rows(to + 2 * hidden, pitch, k0 + warp * 16, n, d, dv, scales);
}
