// Optimizer steps over the flat buffers, all f32. The host cuts each group into pieces of bounded length, a block takes a piece.
#include "device.cuh"

// A piece of a group: elements first..last of the flat buffers.
struct Piece {
    u64 first, last;
    u32 group, unused;
    float weight_decay, lr_scale;
};

// What was found out about a step before its update; the optimizers read it, the host is told of it later.
struct Gate {
    double squares;  // Σ g²
    u64 culprit;     // the first element of the gradient that is no number; NONE without one
    float factor;    // multiplies the gradient
    u32 open;        // 0: the step changes nothing
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
    const Gate* gate;  // null: gradient_scale
};

static __device__ __forceinline__ float direction(const Adam& a, float m, float v) {
    return (m / a.correction1) / (sqrtf(v / a.correction2) + a.eps);
}

// Whether a step changes nothing, and else what multiplies its gradient.
static __device__ __forceinline__ bool is_shut(const Gate* gate) { return gate && !gate->open; }
static __device__ __forceinline__ float scale_of(const Gate* gate, float known) { return gate ? gate->factor : known; }

static __device__ __forceinline__ float take_gradient(const Adam& a, float scale, u64 i) {
    const float g = a.gradients[i] * scale;
    const float m = a.beta1 * a.first[i] + (1.0f - a.beta1) * g, v = a.beta2 * a.second[i] + (1.0f - a.beta2) * g * g;
    a.first[i] = m;
    a.second[i] = v;
    return direction(a, m, v);
}

KERNEL(adamw, Adam, 256) {
    if (is_shut(a.gate)) return;
    const Piece p = a.pieces[blockIdx.x];
    const float lr = a.lr * p.lr_scale, scale = scale_of(a.gate, a.gradient_scale);
    for (u64 i = p.first + threadIdx.x; i < p.last; i += 256) {
        const float d = take_gradient(a, scale, i), w = a.weights[i];
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
    if (is_shut(a.gate)) return;
    const Piece p = a.pieces[blockIdx.x];
    const float scale = scale_of(a.gate, a.gradient_scale);
    double w2 = 0, r2 = 0;
    for (u64 i = p.first + threadIdx.x; i < p.last; i += 256) {
        const float w = a.weights[i], r = take_gradient(a, scale, i) + p.weight_decay * w;
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
    if (is_shut(a.gate)) return;
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
    const Gate* gate;
};

KERNEL(moving_average, Average, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i < a.n && !is_shut(a.gate)) a.average[i] = a.decay * a.average[i] + (1.0f - a.decay) * a.weights[i];
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

struct Judge {
    const float* gradients;
    const double* partial;  // [blocks]: their squares, as `squares` left them
    const double* totals;   // [1 + losses]: Σ g², and of each loss
    const Gate* after;      // of the step before; may be null
    Gate* gate;
    u64 n, blocks;
    double clip;  // 0: none
    u32 losses, unused;
};

static const u64 NONE = ~u64(0);

// The smallest of a block.
static __device__ __forceinline__ u64 block_least(u64 v) {
    __shared__ u64 all[256];
    all[threadIdx.x] = v;
    __syncthreads();
    for (u32 i = 0; i < 256; i++) v = all[i] < v ? all[i] : v;
    __syncthreads();
    return v;
}

static __device__ __forceinline__ bool is_finite(double v) { return v - v == 0.0; }

// One block decides a step. Squares of f32 do not overflow f64, so a sum is no number where an element is none.
KERNEL(judge, Judge, 256) {
    const double squares = a.totals[0];
    bool open = is_finite(squares) && !is_shut(a.after);
    for (u32 i = 1; i <= a.losses; i++) open = open && is_finite(a.totals[i]);
    u64 culprit = NONE;
    if (!is_finite(squares)) {
        u64 block = NONE;
        for (u64 i = threadIdx.x; i < a.blocks && block == NONE; i += 256) {
            if (!is_finite(a.partial[i])) block = i;
        }
        const u64 first = block_least(block) * SQUARES, last = first + SQUARES < a.n ? first + SQUARES : a.n;
        for (u64 i = first + threadIdx.x; i < last && culprit == NONE; i += 256) {
            if (!is_finite(a.gradients[i])) culprit = i;
        }
        culprit = block_least(culprit);
    }
    if (threadIdx.x == 0) {
        const double norm = sqrt(squares);
        a.gate->squares = squares;
        a.gate->culprit = culprit;
        a.gate->factor = a.clip > 0 && norm > a.clip ? float(a.clip / norm) : 1.0f;
        a.gate->open = open;
    }
}

struct Momentum {
    const float* gradients;  // of one matrix
    float* momentum;
    float* update;  // u = (1 − μ) g + μ b
    u64 n;
    float mu, gradient_scale;
    const Gate* gate;
};

KERNEL(muon_momentum, Momentum, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.n) return;
    if (is_shut(a.gate)) {  // what follows computes with zeros, and changes nothing either
        a.update[i] = 0.0f;
        return;
    }
    const float g = a.gradients[i] * scale_of(a.gate, a.gradient_scale), b = a.mu * a.momentum[i] + (1.0f - a.mu) * g;
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
    const Gate* gate;
};

KERNEL(muon_apply, Apply, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.n || is_shut(a.gate)) return;
    const float w = a.weights[i];
    a.weights[i] = w - a.lr * (a.weight_decay * w + a.scale * to_float(a.x[i]));
}
