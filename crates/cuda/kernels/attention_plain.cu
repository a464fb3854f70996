// Attention without tensor cores: f32, and head dimensions that the tiles of attention.cu do not fit. Any D up to 256.
//
// A block of eight warps takes a tile of 64 rows of one head, a warp eight of them. The other side passes by in tiles of 32
// rows in shared memory: a lane computes the score of one of them, then holds the components lane, lane + 32, … of the sums.
#include "attention.cuh"

enum { OTHER = 32, EACH = ROWS / 8, PARTS = 8 };  // D ≤ 32 · PARTS

// Rows first..first + 32 of two parts of qkv-like matrices into shared memory, zeros beyond n.
static __device__ __forceinline__ void load_tile(float* to, const T* from, u64 pitch, u32 first, u32 n, u32 d) {
    for (u32 i = threadIdx.x; i < OTHER * d; i += 256) {
        const u32 r = i / d, c = i % d;
        to[r * (d + 1) + c] = first + r < n ? to_float(from[u64(first + r) * pitch + c]) : 0.0f;
    }
}

static __device__ __forceinline__ float dot(const T* x, const float* y, u32 d) {
    float s = 0;
#pragma unroll 4
    for (u32 c = 0; c < d; c++) s += to_float(x[c]) * y[c];
    return s;
}

// acc[c] += Σ_j weights[j] · rows[j][c]
static __device__ __forceinline__ void add_rows(float acc[PARTS], const float* weights, const float* rows, u32 d, u32 lane) {
#pragma unroll
    for (int k = 0; k < PARTS; k++) {
        const u32 c = lane + 32 * k;
        if (c < d) {
#pragma unroll 4
            for (u32 j = 0; j < OTHER; j++) acc[k] += weights[j] * rows[j * (d + 1) + c];
        }
    }
}

KERNEL(attention_plain, Attention, 256) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float weights[8][OTHER];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], q0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(q0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    float* ks = shared;
    float* vs = ks + OTHER * (d + 1);
    float largest[EACH], sum[EACH], acc[EACH][PARTS];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        largest[i] = -infinity(), sum[i] = 0;
#pragma unroll
        for (int k = 0; k < PARTS; k++) acc[i][k] = 0;
    }
    u32 low, high;
    keys_of(a, q0, last, n, low, high);
    for (u32 j0 = low / OTHER * OTHER; j0 < high; j0 += OTHER) {
        __syncthreads();
        load_tile(ks, q + hidden, pitch, j0, n, d);
        load_tile(vs, q + 2 * hidden, pitch, j0, n, d);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const u32 i = q0 + warp * EACH + e, j = j0 + lane;
            if (i >= n) continue;
            const bool seen = j < n && sees(a, i, j);
            float s = seen ? a.scale * dot(q + i * pitch, ks + lane * (d + 1), d) : -infinity();
#ifdef BIASED
            s += bias_at(a, head, int(j) - int(i));
#endif
            const float most = warp_max(s);
            if (most == -infinity()) continue;
            const float m = fmaxf(largest[e], most), c = expf(largest[e] - m), p = expf(s - m);
            sum[e] = sum[e] * c + warp_sum(p);
            largest[e] = m;
            float dropped = p;
            if (a.draws.threshold && !((kept_keys(a, first + i, head, j & ~7u) >> (j & 7)) & 1)) dropped = 0;
            weights[warp][lane] = dropped;
            __syncwarp();
#pragma unroll
            for (int k = 0; k < PARTS; k++) acc[e][k] *= c;
            add_rows(acc[e], weights[warp], vs, d, lane);
            __syncwarp();
        }
    }
    const float scale = a.draws.threshold ? a.draws.scale : 1.0f;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const u32 i = q0 + warp * EACH + e;
        if (i >= n) continue;
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            const u32 c = lane + 32 * k;
            if (c < d) a.out[u64(first + i) * hidden + head * d + c] = Element<T>::of(acc[e][k] * scale / sum[e]);
        }
        if (a.lse && lane == 0) a.lse[u64(first + i) * a.heads + head] = largest[e] + logf(sum[e]);
    }
}

// dq, and delta for the other half.
KERNEL(attention_plain_dq, Attention, 256) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float weights[8][OTHER];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], q0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(q0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    float* ks = shared;
    float* vs = ks + OTHER * (d + 1);
#ifdef BIASED
    float* slopes = vs + OTHER * (d + 1);
#endif
    float delta[EACH], acc[EACH][PARTS];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const u32 i = q0 + warp * EACH + e;
        delta[e] = 0;
#pragma unroll
        for (int k = 0; k < PARTS; k++) acc[e][k] = 0;
        if (i >= n) continue;
        const u64 at = u64(first + i) * hidden + head * d;
        float s = 0;
        for (u32 c = lane; c < d; c += 32) s += to_float(a.dy[at + c]) * to_float(a.y[at + c]);
        delta[e] = warp_sum(s);
        if (lane == 0) a.delta[u64(first + i) * a.heads + head] = delta[e];
    }
    u32 low, high;
    keys_of(a, q0, last, n, low, high);
    for (u32 j0 = low / OTHER * OTHER; j0 < high; j0 += OTHER) {
        __syncthreads();
        load_tile(ks, q + hidden, pitch, j0, n, d);
        load_tile(vs, q + 2 * hidden, pitch, j0, n, d);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const u32 i = q0 + warp * EACH + e, j = j0 + lane;
#ifdef BIASED
            slopes[(warp * EACH + e) * (OTHER + 1) + lane] = 0;
#endif
            if (i >= n) continue;
            float ds = 0;
            if (j < n && sees(a, i, j)) {
                float s = a.scale * dot(q + i * pitch, ks + lane * (d + 1), d);
#ifdef BIASED
                s += bias_at(a, head, int(j) - int(i));
#endif
                const float p = expf(s - a.lse[u64(first + i) * a.heads + head]);
                float dp = dot(a.dy + u64(first + i) * hidden + head * d, vs + lane * (d + 1), d);
                if (a.draws.threshold) dp *= (kept_keys(a, first + i, head, j & ~7u) >> (j & 7)) & 1 ? a.draws.scale : 0.0f;
                ds = p * (dp - delta[e]);
#ifdef BIASED
                slopes[(warp * EACH + e) * (OTHER + 1) + lane] = ds;
#endif
                ds *= a.scale;
            }
            weights[warp][lane] = ds;
            __syncwarp();
            add_rows(acc[e], weights[warp], ks, d, lane);
            __syncwarp();
        }
#ifdef BIASED
        __syncthreads();
        add_diagonals(a, head, slopes, OTHER, int(j0) - int(q0));
#endif
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const u32 i = q0 + warp * EACH + e;
        if (i >= n) continue;
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            const u32 c = lane + 32 * k;
            if (c < d) a.out[(first + i) * pitch + head * d + c] = Element<T>::of(acc[e][k]);
        }
    }
}

// dk and dv: a tile is 64 keys, queries pass by.
KERNEL(attention_plain_dkv, Attention, 256) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float weights[8][OTHER], slopes[8][OTHER];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim, head = blockIdx.y, hidden = a.heads * d;
    const u32 sequence = a.tiles[2 * blockIdx.x], k0 = a.tiles[2 * blockIdx.x + 1];
    const u32 first = a.starts[sequence], n = a.starts[sequence + 1] - first, last = min(k0 + ROWS, n);
    const u64 pitch = 3 * u64(hidden);
    const T* q = a.qkv + first * pitch + head * d;
    const T* dy = a.dy + u64(first) * hidden + head * d;
    float* qs = shared;
    float* dys = qs + OTHER * (d + 1);
    float dk[EACH][PARTS], dv[EACH][PARTS];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
#pragma unroll
        for (int k = 0; k < PARTS; k++) dk[e][k] = 0, dv[e][k] = 0;
    }
    u32 low, high;
    queries_of(a, k0, last, n, low, high);
    for (u32 i0 = low / OTHER * OTHER; i0 < high; i0 += OTHER) {
        __syncthreads();
        load_tile(qs, q, pitch, i0, n, d);
        load_tile(dys, dy, hidden, i0, n, d);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const u32 j = k0 + warp * EACH + e, i = i0 + lane;
            if (j >= n) continue;
            float p = 0, ds = 0;
            if (i < n && sees(a, i, j)) {
                const u64 at = u64(first + i) * a.heads + head;
                float s = a.scale * dot(q + j * pitch + hidden, qs + lane * (d + 1), d);
#ifdef BIASED
                s += bias_at(a, head, int(j) - int(i));
#endif
                p = expf(s - a.lse[at]);
                const float dp = dot(q + j * pitch + 2 * hidden, dys + lane * (d + 1), d);
                float kept = 1.0f;
                if (a.draws.threshold) kept = (kept_keys(a, first + i, head, j & ~7u) >> (j & 7)) & 1 ? a.draws.scale : 0.0f;
                ds = p * (kept * dp - a.delta[at]) * a.scale;
                p *= kept;
            }
            weights[warp][lane] = p;
            slopes[warp][lane] = ds;
            __syncwarp();
            add_rows(dv[e], weights[warp], dys, d, lane);
            add_rows(dk[e], slopes[warp], qs, d, lane);
            __syncwarp();
        }
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const u32 j = k0 + warp * EACH + e;
        if (j >= n) continue;
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            const u32 c = lane + 32 * k;
            if (c < d) {
                T* to = a.out + (first + j) * pitch + head * d + c;
                to[hidden] = Element<T>::of(dk[e][k]);
                to[2 * hidden] = Element<T>::of(dv[e][k]);
            }
        }
    }
}
