// s = residual + dropout(x); y = normalise(s) · gain + bias; and its backward half. A warp takes a row.
#include "device.cuh"

// Rows that one block of the backward half takes; the sums of its gains' gradients are one row of partial sums.
enum { ROWS = 64 };

struct Norm {
    const T* x;         // [rows, cols]
    const T* residual;  // [rows, cols] or null
    T* y;               // [rows, cols]
    T* sum;             // [rows, cols] or null
    float* stats;       // [rows, 2] or null
    const float* gain;  // [cols]
    const float* bias;  // [cols] or null
    Draws draws;        // threshold 0: no dropout
    u32 rows, cols, centred;
    float eps;
};

// Dynamic shared memory: a row of f32 for each warp.
template <int W> static __device__ __forceinline__ void forward(const Norm& a) {
    DYNAMIC_SHARED(float, shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * (blockDim.x / 32) + warp;
    if (row >= a.rows) return;
    float* s = shared + u64(warp) * a.cols;
    const u64 base = u64(row) * a.cols;
    float sum = 0;
    for (u32 c = W * lane; c < a.cols; c += W * 32) {
        float v[W], r[W];
        load<W>(a.x + base + c, v);
        if (a.draws.threshold) {
            const u64 i = base + c;
            const u32 kept = kept8(a.draws, i >> 3) >> (i & 7);
#pragma unroll
            for (int k = 0; k < W; k++) v[k] *= (kept >> k) & 1 ? a.draws.scale : 0.0f;
        }
        if (a.residual) {
            load<W>(a.residual + base + c, r);
#pragma unroll
            for (int k = 0; k < W; k++) v[k] += r[k];
        }
        if (a.sum) store<W>(a.sum + base + c, v);
#pragma unroll
        for (int k = 0; k < W; k++) {
            s[c + k] = v[k];
            sum += v[k];
        }
    }
    const float mean = a.centred ? warp_sum(sum) / float(a.cols) : 0.0f;
    float squares = 0;
    for (u32 c = W * lane; c < a.cols; c += W * 32) {
#pragma unroll
        for (int k = 0; k < W; k++) {
            const float d = s[c + k] - mean;
            squares += d * d;
        }
    }
    const float r = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (u32 c = W * lane; c < a.cols; c += W * 32) {
        float v[W];
#pragma unroll
        for (int k = 0; k < W; k++) v[k] = (s[c + k] - mean) * r * a.gain[c + k] + (a.bias ? a.bias[c + k] : 0.0f);
        store<W>(a.y + base + c, v);
    }
    if (a.stats && lane == 0) {
        a.stats[2 * u64(row)] = mean;
        a.stats[2 * u64(row) + 1] = r;
    }
}

KERNEL(norm_forward, Norm, 128) {
    if (a.cols % 8 == 0) {
        forward<8>(a);
    } else {
        forward<1>(a);
    }
}

struct NormBackward {
    const T* sum;        // [rows, cols]
    const float* stats;  // [rows, 2]
    const T* dy;         // [rows, cols] or null
    const T* dsum;       // [rows, cols] or null
    T* dx;               // [rows, cols]
    T* dresidual;        // [rows, cols] or null
    const float* gain;   // [cols]
    float* partial;      // [blocks, 2 cols]: gradients of gain and bias
    Draws draws;
    u32 rows, cols, centred, add_dx, add_dresidual, unused;
};

// Dynamic shared memory: for each warp the sums of two gradients, [warps, 2 cols]. A lane only touches its own columns.
template <int W> static __device__ __forceinline__ void backward(const NormBackward& a) {
    DYNAMIC_SHARED(float, shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float* dgain = shared + u64(warp) * 2 * a.cols;
    float* dbias = dgain + a.cols;
    for (u32 c = W * lane; c < a.cols; c += W * 32) {
#pragma unroll
        for (int k = 0; k < W; k++) dgain[c + k] = 0, dbias[c + k] = 0;
    }
    const u32 last = min((blockIdx.x + 1) * ROWS, a.rows);
    for (u32 row = blockIdx.x * ROWS + warp; row < last; row += warps) {
        const u64 base = u64(row) * a.cols;
        const float mean = a.stats[2 * u64(row)], r = a.stats[2 * u64(row) + 1];
        float g_sum = 0, g_hat = 0;
        if (a.dy) {
            for (u32 c = W * lane; c < a.cols; c += W * 32) {
                float s[W], d[W];
                load<W>(a.sum + base + c, s);
                load<W>(a.dy + base + c, d);
#pragma unroll
                for (int k = 0; k < W; k++) {
                    const float hat = (s[k] - mean) * r, g = d[k] * a.gain[c + k];
                    g_sum += g;
                    g_hat += g * hat;
                    dgain[c + k] += d[k] * hat;
                    dbias[c + k] += d[k];
                }
            }
        }
        g_sum = a.centred ? warp_sum(g_sum) / float(a.cols) : 0.0f;
        g_hat = warp_sum(g_hat) / float(a.cols);
        for (u32 c = W * lane; c < a.cols; c += W * 32) {
            float s[W], d[W];
            load<W>(a.sum + base + c, s);
#pragma unroll
            for (int k = 0; k < W; k++) d[k] = 0;
            if (a.dy) load<W>(a.dy + base + c, d);
#pragma unroll
            for (int k = 0; k < W; k++) s[k] = r * (d[k] * a.gain[c + k] - g_sum - (s[k] - mean) * r * g_hat);
            if (a.dsum) {
                load<W>(a.dsum + base + c, d);
#pragma unroll
                for (int k = 0; k < W; k++) s[k] += d[k];
            }
            if (a.dresidual) {
#pragma unroll
                for (int k = 0; k < W; k++) d[k] = 0;
                if (a.add_dresidual) load<W>(a.dresidual + base + c, d);
#pragma unroll
                for (int k = 0; k < W; k++) d[k] += s[k];
                store<W>(a.dresidual + base + c, d);
            }
            if (a.draws.threshold) {
                const u64 i = base + c;
                const u32 kept = kept8(a.draws, i >> 3) >> (i & 7);
#pragma unroll
                for (int k = 0; k < W; k++) s[k] *= (kept >> k) & 1 ? a.draws.scale : 0.0f;
            }
            if (a.add_dx) {
                load<W>(a.dx + base + c, d);
#pragma unroll
                for (int k = 0; k < W; k++) s[k] += d[k];
            }
            store<W>(a.dx + base + c, s);
        }
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < 2 * a.cols; c += blockDim.x) {
        float all = 0;
        for (u32 w = 0; w < warps; w++) all += shared[u64(w) * 2 * a.cols + c];
        a.partial[u64(blockIdx.x) * 2 * a.cols + c] = all;
    }
}

KERNEL(norm_backward, NormBackward, 128) {
    if (a.cols % 8 == 0) {
        backward<8>(a);
    } else {
        backward<1>(a);
    }
}
