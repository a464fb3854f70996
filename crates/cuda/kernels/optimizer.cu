// Optimizer steps over the flat buffers, all f32. The host cuts each group into pieces of bounded length, a block takes a piece.
#include "device.cuh"

// A piece of a group: elements first..last of the flat buffers.
struct Piece {
    u64 first, last;
    u32 group, unused;
    float weight_decay, lr_scale;
};

struct Adam {
    float* weights;
    const float* gradients;
    float* first;
    float* second;
    const Piece* pieces;
    double* norms;        // LAMB: [pieces, 2], sums of squares of w and r
    const float* ratios;  // LAMB: [groups]
    float lr, beta1, beta2, eps;
    float correction1, correction2;  // 1 − βᵗ
    float gradient_scale;
    u32 unused;
};

static __device__ __forceinline__ float direction(const Adam& a, float m, float v) {
    return (m / a.correction1) / (sqrtf(v / a.correction2) + a.eps);
}

static __device__ __forceinline__ float take_gradient(const Adam& a, u64 i) {
    const float g = a.gradients[i] * a.gradient_scale;
    const float m = a.beta1 * a.first[i] + (1.0f - a.beta1) * g, v = a.beta2 * a.second[i] + (1.0f - a.beta2) * g * g;
    a.first[i] = m;
    a.second[i] = v;
    return direction(a, m, v);
}

KERNEL(adamw, Adam, 256) {
    const Piece p = a.pieces[blockIdx.x];
    const float lr = a.lr * p.lr_scale;
    for (u64 i = p.first + threadIdx.x; i < p.last; i += 256) {
        const float d = take_gradient(a, i), w = a.weights[i];
        a.weights[i] = w - lr * (d + p.weight_decay * w);
    }
}

// The sum over a block, valid in thread 0.
static __device__ __forceinline__ double block_sum(double v) {
    __shared__ double sums[8];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
    __syncthreads();
    double all = 0;
    for (u32 w = 0; w < 8; w++) all += sums[w];
    __syncthreads();
    return all;
}

// LAMB's first pass: the moments, and the norms of weights and updates.
KERNEL(lamb_norms, Adam, 256) {
    const Piece p = a.pieces[blockIdx.x];
    double w2 = 0, r2 = 0;
    for (u64 i = p.first + threadIdx.x; i < p.last; i += 256) {
        const float w = a.weights[i], r = take_gradient(a, i) + p.weight_decay * w;
        w2 += double(w) * w;
        r2 += double(r) * r;
    }
    w2 = block_sum(w2);
    r2 = block_sum(r2);
    if (threadIdx.x == 0) {
        a.norms[2 * u64(blockIdx.x)] = w2;
        a.norms[2 * u64(blockIdx.x) + 1] = r2;
    }
}

struct Ratios {
    const double* norms;  // [pieces, 2]
    const u32* groups;    // [groups + 1]: the first piece of each
    float* ratios;        // [groups]
    u32 count, unused;
};

KERNEL(lamb_ratios, Ratios, 32) {
    const u32 g = blockIdx.x * 32 + threadIdx.x;
    if (g >= a.count) return;
    double w2 = 0, r2 = 0;
    for (u32 i = a.groups[g]; i < a.groups[g + 1]; i++) {
        w2 += a.norms[2 * u64(i)];
        r2 += a.norms[2 * u64(i) + 1];
    }
    a.ratios[g] = w2 > 0 && r2 > 0 ? float(sqrt(w2) / sqrt(r2)) : 1.0f;
}

KERNEL(lamb, Adam, 256) {
    const Piece p = a.pieces[blockIdx.x];
    const float lr = a.lr * p.lr_scale * a.ratios[p.group];
    for (u64 i = p.first + threadIdx.x; i < p.last; i += 256) {
        const float w = a.weights[i];
        a.weights[i] = w - lr * (direction(a, a.first[i], a.second[i]) + p.weight_decay * w);
    }
}

struct Average {
    const float* weights;
    float* average;
    u64 n;
    float decay;
    u32 unused;
};

KERNEL(moving_average, Average, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i < a.n) a.average[i] = a.decay * a.average[i] + (1.0f - a.decay) * a.weights[i];
}

// Elements of a block of `squares`.
enum { SQUARES = 8192 };

struct Squares {
    const float* x;
    double* partial;  // [blocks]
    u64 n;
};

KERNEL(squares, Squares, 256) {
    const u64 first = u64(blockIdx.x) * SQUARES, last = first + SQUARES < a.n ? first + SQUARES : a.n;
    double sum = 0;
    for (u64 i = first + threadIdx.x; i < last; i += 256) sum += double(a.x[i]) * a.x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) a.partial[blockIdx.x] = sum;
}

struct Total {
    const double* partial;  // [count]
    double* sum;            // one
    u64 count;
};

// One block adds all partial sums.
KERNEL(total, Total, 256) {
    double sum = 0;
    for (u64 i = threadIdx.x; i < a.count; i += 256) sum += a.partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *a.sum = sum;
}

struct Momentum {
    const float* gradients;  // of one matrix
    float* momentum;
    float* update;  // u = (1 − μ) g + μ b
    u64 n;
    float mu, gradient_scale;
};

KERNEL(muon_momentum, Momentum, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.n) return;
    const float g = a.gradients[i] * a.gradient_scale, b = a.mu * a.momentum[i] + (1.0f - a.mu) * g;
    a.momentum[i] = b;
    a.update[i] = (1.0f - a.mu) * g + a.mu * b;
}

struct Normalise {
    const float* update;
    const double* squares;  // one
    T* x;
    u64 n;
};

// X = u / (‖u‖ + 1e-7), in the element type of the products.
KERNEL(muon_normalise, Normalise, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i < a.n) a.x[i] = Element<T>::of(float(a.update[i] / (sqrt(*a.squares) + 1e-7)));
}

struct Mix {
    const T* gram;    // X·Xᵀ
    const T* square;  // its square
    T* mix;           // b · gram + c · square
    u64 n;
    float b, c;
};

KERNEL(muon_mix, Mix, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i < a.n) a.mix[i] = Element<T>::of(a.b * to_float(a.gram[i]) + a.c * to_float(a.square[i]));
}

struct Apply {
    const T* x;
    float* weights;
    u64 n;
    float lr, weight_decay, scale;
    u32 unused;
};

KERNEL(muon_apply, Apply, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.n) return;
    const float w = a.weights[i];
    a.weights[i] = w - a.lr * (a.weight_decay * w + a.scale * to_float(a.x[i]));
}
