#include "substrate/launch.h"

#include <stdexcept>
#include <unordered_map>
#ifdef FASTREENACT_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastreenact {
namespace {

std::unordered_map<std::string, const void*>& compiled() {
    static std::unordered_map<std::string, const void*> kernels;
    return kernels;
}

}  // namespace

CompiledKernels::CompiledKernels(std::initializer_list<CompiledKernel> kernels) {
    for (const CompiledKernel& kernel : kernels) compiled()[kernel.name] = kernel.function;
}

void launch(const Launch& it, void* stream) {
    const auto found = compiled().find(it.kernel);
    if (found == compiled().end()) throw std::runtime_error(it.kernel + ": nvcc compiled no kernel of this name");
#ifdef FASTREENACT_WITH_CUDA
    constexpr uint32_t kPlain = 48 << 10;  // more shared memory has to be asked for
    const LaunchShape& s = it.shape;
    cudaError_t error = cudaSuccess;
    if (s.shared_bytes > kPlain) {
        error = cudaFuncSetAttribute(found->second, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(s.shared_bytes));
    }
    void* arguments[] = {const_cast<char*>(it.params.data())};
    if (error == cudaSuccess) {
        error = cudaLaunchKernel(found->second, dim3(s.grid_x, s.grid_y, s.grid_z), dim3(s.threads, s.threads_y),
                                 arguments, s.shared_bytes, static_cast<cudaStream_t>(stream));
    }
    if (error != cudaSuccess) throw std::runtime_error(it.kernel + ": CUDA says " + cudaGetErrorString(error));
#else
    (void)stream;
#endif
}

}  // namespace fastreenact
