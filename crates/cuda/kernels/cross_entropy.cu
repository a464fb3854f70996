// The loss of rows of logits, and their gradient: a block takes a row, in two passes over it.
#include "device.cuh"

struct CrossEntropy {
    const float* logits;  // [rows, pitch], without the bias
    const float* bias;    // [vocabulary] or null
    const u32* labels;    // [rows]
    float* losses;        // [rows, 2]: loss, 1 where the largest logit is the label's
    T* dlogits;           // [rows, pitch] or null; may be the memory of `logits` where T is float
    u64 pitch;
    u32 rows, vocabulary;
    float smoothing, scale;
};

// The largest logit with its first place, the sum of exp(logit − largest), the sum of all logits.
struct Row {
    float largest, exponentials, sum;
    u32 place;
};

static __device__ __forceinline__ Row joined(const Row& x, const Row& y) {
    const bool first = x.largest > y.largest || (x.largest == y.largest && x.place < y.place);
    Row r;
    r.largest = first ? x.largest : y.largest;
    r.place = first ? x.place : y.place;
    const float from_x = x.exponentials > 0 || x.exponentials != x.exponentials ? x.exponentials * expf(x.largest - r.largest) : 0.0f;
    const float from_y = y.exponentials > 0 || y.exponentials != y.exponentials ? y.exponentials * expf(y.largest - r.largest) : 0.0f;
    r.exponentials = from_x + from_y;
    r.sum = x.sum + y.sum;
    return r;
}

KERNEL(cross_entropy, CrossEntropy, 256) {
    __shared__ Row rows[8];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = blockIdx.x, label = a.labels[m];
    const float* logits = a.logits + m * a.pitch;
    Row r;
    r.largest = -infinity(), r.exponentials = 0, r.sum = 0, r.place = 0xffffffffu;
    for (u32 v = threadIdx.x; v < a.vocabulary; v += 256) {
        const float x = logits[v] + (a.bias ? a.bias[v] : 0.0f);
        if (x > r.largest) {
            r.exponentials = r.exponentials * expf(r.largest - x) + 1.0f;
            r.largest = x, r.place = v;
        } else {
            r.exponentials += expf(x - r.largest);
        }
        r.sum += x;
    }
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) {
        Row o;
        o.largest = __shfl_down_sync(0xffffffffu, r.largest, i);
        o.exponentials = __shfl_down_sync(0xffffffffu, r.exponentials, i);
        o.sum = __shfl_down_sync(0xffffffffu, r.sum, i);
        o.place = __shfl_down_sync(0xffffffffu, r.place, i);
        r = joined(r, o);
    }
    if (lane == 0) rows[warp] = r;
    __syncthreads();
    r = rows[0];
    for (u32 w = 1; w < 8; w++) r = joined(r, rows[w]);
    const float lse = r.largest + logf(r.exponentials), v = float(a.vocabulary);
    if (threadIdx.x == 0) {
        const float x = logits[label] + (a.bias ? a.bias[label] : 0.0f);
        a.losses[2 * u64(m)] = (1.0f - a.smoothing) * (lse - x) + a.smoothing * (lse - r.sum / v);
        a.losses[2 * u64(m) + 1] = r.place == label ? 1.0f : 0.0f;
    }
    if (a.dlogits == nullptr) return;
    // Thread 0 has read the label's logit: now the row may be overwritten.
    __syncthreads();
    for (u32 o = threadIdx.x; o < a.vocabulary; o += 256) {
        const float x = logits[o] + (a.bias ? a.bias[o] : 0.0f);
        const float q = a.smoothing / v + (o == label ? 1.0f - a.smoothing : 0.0f);
        a.dlogits[m * a.pitch + o] = Element<T>::of(a.scale * (expf(x - lse) - q));
    }
}
