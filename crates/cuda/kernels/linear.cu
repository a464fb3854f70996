// What a linear map needs around its products, where an epilogue of the product cannot do it.
#include "device.cuh"

struct Activate {
    const T* z;
    T* y;  // f(z), or dy to be multiplied by f′(z)
    u64 n;
    u32 f, unused;
};

KERNEL(activate, Activate, 256) {
    const u64 i = 8 * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.n) return;
    float z[8];
    load_up_to_8(a.z + i, a.n - i, z);
#pragma unroll
    for (int k = 0; k < 8; k++) z[k] = activation(a.f, z[k]);
    store_up_to_8(a.y + i, a.n - i, z);
}

KERNEL(activate_backward, Activate, 256) {
    const u64 i = 8 * (u64(blockIdx.x) * 256 + threadIdx.x);
    if (i >= a.n) return;
    float z[8], d[8];
    load_up_to_8(a.z + i, a.n - i, z);
    load_up_to_8(a.y + i, a.n - i, d);
#pragma unroll
    for (int k = 0; k < 8; k++) d[k] *= derivative(a.f, z[k]);
    store_up_to_8(a.y + i, a.n - i, d);
}

struct AddBias {
    T* y;               // [rows, cols]
    const float* bias;  // [cols]
    u64 n;
    u32 cols, unused;
};

KERNEL(add_bias, AddBias, 256) {
    const u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.n) return;
    a.y[i] = Element<T>::of(to_float(a.y[i]) + a.bias[i % a.cols]);
}
