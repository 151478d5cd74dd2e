// How a CUDA kernel is launched from packed parameters: nvcc's by its name in here, NVRTC's by the same name in Python.
#pragma once
#include <initializer_list>
#include <string>

#include "substrate/common.h"

namespace fastreenact {

struct Launch {
    std::string kernel;  // its name in C++, within the namespace: conv_kernel<0, 2>
    std::string params;  // the bytes of its one parameter
    LaunchShape shape;
};

template <typename Params>
Launch launch_of(std::string kernel, const Params& params, const LaunchShape& shape) {
    return {std::move(kernel), std::string(reinterpret_cast<const char*>(&params), sizeof(Params)), shape};
}

// On `stream`, a cudaStream_t of the current device, returning at once. Throws std::runtime_error with CUDA's reason.
void launch(const Launch& launch, void* stream);

// The kernels of a csrc/*.cu, as nvcc has compiled them.
struct CompiledKernel {
    const char* name;
    const void* function;
};
struct CompiledKernels {
    CompiledKernels(std::initializer_list<CompiledKernel> kernels);  // from now on `launch` knows them
};

template <typename Params>
const void* function_of(void (*kernel)(Params)) {
    return reinterpret_cast<const void*>(kernel);
}

}  // namespace fastreenact

// With template arguments in numbers, as `Launch` has them.
#define FASTREENACT_KERNEL(...)                             \
    fastreenact::CompiledKernel {                           \
        #__VA_ARGS__, fastreenact::function_of(__VA_ARGS__) \
    }
