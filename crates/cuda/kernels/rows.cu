// Rows taken by index, and the way back: rows are added to where they came from, without atomics and in one order.
#include "device.cuh"

struct Gather {
    const T* x;       // [.., cols]
    const u32* rows;  // [count]
    T* y;             // [count, cols]
    u64 count;
    u32 cols, unused;
};

KERNEL(gather, Gather, 128) {
    const u64 m = u64(blockIdx.x) * 4 + threadIdx.x / 32;
    if (m >= a.count) return;
    const T* from = a.x + u64(a.rows[m]) * a.cols;
    T* to = a.y + m * a.cols;
    for (u32 c = threadIdx.x % 32; c < a.cols; c += 32) to[c] = from[c];
}

// The host has sorted the rows of dy by where they go (a stable sort) and cut them into pieces of bounded length:
// `order` holds the sorted rows, a piece (target row, first, last, slot) is order[first..last]. A target that is one piece is
// added to at once; the pieces of a longer one leave sums in slots, which `combine` adds in order.
struct Scatter {
    const T* dy;                  // [.., cols]
    const u32* order;
    const u32* pieces;            // [count, 4]
    float* slots;                 // [.., cols]
    float* gradient;              // f32 [.., cols], or null
    T* dx;                        // [.., cols] where `gradient` is null
    u32 count, cols;
};

enum { NO_SLOT = 0xffffffffu };

static __device__ __forceinline__ void add(float* gradient, T* dx, u64 at, float sum) {
    if (gradient) {
        gradient[at] += sum;
    } else {
        dx[at] = Element<T>::of(to_float(dx[at]) + sum);
    }
}

// Block (i, j): piece i, columns 128 j...
KERNEL(scatter, Scatter, 128) {
    const u32* piece = a.pieces + 4 * u64(blockIdx.x);
    const u32 row = piece[0], first = piece[1], last = piece[2], slot = piece[3], c = blockIdx.y * 128 + threadIdx.x;
    if (c >= a.cols) return;
    float sum = 0;
    for (u32 i = first; i < last; i++) sum += to_float(a.dy[u64(a.order[i]) * a.cols + c]);
    if (slot == NO_SLOT) {
        add(a.gradient, a.dx, u64(row) * a.cols + c, sum);
    } else {
        a.slots[u64(slot) * a.cols + c] = sum;
    }
}

struct Combine {
    const u32* targets;  // [count, 4]: row, first slot, last slot, unused
    const float* slots;
    float* gradient;
    T* dx;
    u32 count, cols;
};

KERNEL(combine, Combine, 128) {
    const u32* target = a.targets + 4 * u64(blockIdx.x);
    const u32 c = blockIdx.y * 128 + threadIdx.x;
    if (c >= a.cols) return;
    float sum = 0;
    for (u32 slot = target[1]; slot < target[2]; slot++) sum += a.slots[u64(slot) * a.cols + c];
    add(a.gradient, a.dx, u64(target[0]) * a.cols + c, sum);
}
