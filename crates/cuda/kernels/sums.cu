// Sums over rows in two stages and a fixed order: gradients of biases and of norms.
#include "device.cuh"

// Rows that one block of `column_sums` adds up.
enum { CHUNK = 256, WARPS = 8 };

struct ColumnSums {
    const T* x;      // [rows, cols], rows `pitch` apart
    float* partial;  // [chunks, cols]
    u64 pitch;
    u32 rows, cols;
};

// Block (i, j): columns 256 i.., rows CHUNK j... A warp takes every eighth row; lane and place give the column.
template <int W> static __device__ __forceinline__ void column_sums_of(const ColumnSums& a) {
    __shared__ float sums[WARPS][256];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.y * CHUNK;
    const u32 last = min(first + CHUNK, a.rows);
    float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (u32 r = first + warp; r < last; r += WARPS) {
        const T* row = a.x + r * a.pitch;
#pragma unroll
        for (int k = 0; k < 8; k += W) {
            const u32 c = blockIdx.x * 256 + (W == 8 ? 8 * lane : 32 * k + lane);
            float v[W];
            if (c < a.cols) {
                load<W>(row + c, v);
#pragma unroll
                for (int i = 0; i < W; i++) s[k + i] += v[i];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 8; k++) sums[warp][W == 8 ? 8 * lane + k : 32 * k + lane] = s[k];
    __syncthreads();
    const u32 c = blockIdx.x * 256 + threadIdx.x;
    float sum = 0;
    for (u32 w = 0; w < WARPS; w++) sum += sums[w][threadIdx.x];
    if (c < a.cols) a.partial[u64(blockIdx.y) * a.cols + c] = sum;
}

KERNEL(column_sums, ColumnSums, 256) {
    if (a.cols % 8 == 0 && a.pitch % 8 == 0) {
        column_sums_of<8>(a);
    } else {
        column_sums_of<1>(a);
    }
}

struct AddPartials {
    const float* partial;  // [chunks, pitch]
    float* out;            // [cols], added to
    u64 pitch;
    u32 chunks, cols;
};

// A block takes 32 columns: warp w adds the chunks w, w + 8, …, then the eight sums are added in order.
KERNEL(add_partials, AddPartials, 256) {
    __shared__ float sums[WARPS][32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < a.cols) {
        for (u32 i = warp; i < a.chunks; i += WARPS) sum += a.partial[i * a.pitch + c];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && c < a.cols) {
        float all = 0;
        for (u32 w = 0; w < WARPS; w++) all += sums[w][lane];
        a.out[c] += all;
    }
}
